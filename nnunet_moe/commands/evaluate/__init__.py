"""Scoring models under every subset of the modalities: `nnunet_moe evaluate`."""
