"""Networks for cases with missing modalities, built from the networks that nnU-Net plans."""
