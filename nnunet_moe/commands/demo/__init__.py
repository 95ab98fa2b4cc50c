"""`nnunet_moe demo`: train and predict on a small simulated dataset."""
