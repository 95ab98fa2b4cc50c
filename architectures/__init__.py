"""Networks that take a modality code: the mixture-of-experts convolution and its place in what nnU-Net plans."""
