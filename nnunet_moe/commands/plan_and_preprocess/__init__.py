"""Training cases that lack files: which there are, what nnU-Net plans from them, and how they are preprocessed."""
