"""Any subset of the modalities as an ordinary nnU-Net that needs nothing of this package."""
