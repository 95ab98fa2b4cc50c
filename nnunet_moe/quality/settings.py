"""Which signals of trust are measured."""

OFF, FAST, FULL = "off", "fast", "full"
LEVELS = (OFF, FAST, FULL)
"""None; those that need no further pass of the network; also the agreement with one modality after another left out."""
