"""A trained model as a container that takes whatever sequences a challenge or a hospital sends."""

TARGETS = ("grand-challenge", "brats", "fomo", "plain")
"""Whose contract a container may follow."""
