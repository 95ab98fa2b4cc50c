"""Package a trained model as a container that takes any modalities that a challenge or a hospital sends."""

TARGETS = ("grand-challenge", "brats", "fomo", "plain")
"""The contracts that a container can follow."""
