"""`nnunet_moe upcycle`: convert a checkpoint into initial weights for a trainer with experts."""
