"""The settings, which users write under the key `nnunet_moe` into a configuration of the plans."""
