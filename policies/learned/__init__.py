"""Learned policies: artefacts, their NumPy networks, and the policies that use them. No torch here."""
