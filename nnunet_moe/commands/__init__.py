"""The verbs of the command `nnunet_moe`, one folder each."""
