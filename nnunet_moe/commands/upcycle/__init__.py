"""`nnunet_moe upcycle`: initial weights for a trainer with experts from a checkpoint without them."""
