"""`nnunet_moe plan_and_preprocess`: nnU-Net's command for training cases with missing files."""
