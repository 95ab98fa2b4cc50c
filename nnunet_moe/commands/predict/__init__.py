"""`nnunet_moe predict`: the cases of a folder, each by itself, so that one that cannot be predicted stays one."""
