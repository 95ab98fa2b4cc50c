"""Score models for every subset of the modalities: `nnunet_moe evaluate`."""
