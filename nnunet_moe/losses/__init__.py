"""The losses beside nnU-Net's own, one module a method."""
