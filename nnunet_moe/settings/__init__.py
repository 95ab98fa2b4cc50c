"""The settings that stand under the key `nnunet_moe` in a configuration of the plans."""
