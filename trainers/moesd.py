"""MoE-SD: the method of the paper, with the decisions of docs/method.md."""

from nnunet_moe.trainers.base import nnUNetTrainerMissingModality


class nnUNetTrainerMoESD(nnUNetTrainerMissingModality):
    """Mixtures of experts in stem and encoder, gate regularisation, online self-distillation."""
