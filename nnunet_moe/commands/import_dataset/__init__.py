"""`nnunet_moe import`: folders in other layouts become raw datasets of nnU-Net, absent files staying absent."""
