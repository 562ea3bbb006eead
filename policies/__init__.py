"""Policies: things that decide. One protocol; MPC, rules, hold. They never touch a store."""
