"""The losses that are added to nnU-Net's loss, one module for each method."""
