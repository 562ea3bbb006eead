"""Environments: what a policy is tried on.

Here: the reference plant (envs.reference). Not here: decisions (policies), stores, services.
"""
