"""Export any subset of the modalities as an ordinary nnU-Net, which does not need this package."""
