"""`nnunet_moe predict`: predict the cases of a folder one by one, so that a failed case does not stop the others."""
