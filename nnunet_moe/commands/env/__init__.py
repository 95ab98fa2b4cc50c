"""`nnunet_moe env`: let nnU-Net find the trainers."""
