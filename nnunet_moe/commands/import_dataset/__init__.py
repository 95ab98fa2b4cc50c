"""`nnunet_moe import`: convert a folder with another layout into a raw dataset; missing files stay missing."""
