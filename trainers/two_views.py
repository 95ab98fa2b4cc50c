"""The base of MoE-SD and its ablations: two views of each batch, with one backward pass for each.

L = L_seg(full view) + L_seg(dropped view) + alpha L_reg + w(t) beta L_sd (paper, eqs. 4 to 7). The teacher (full view)
is detached, so its graph is freed before the dropped view is computed. Therefore a step holds one view's activations
at a time, as a step of nnU-Net does, on any device and in any precision.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from torch import Tensor

from nnunet_moe.architectures.modality_network import ModalityNetwork
from nnunet_moe.losses.moesd import gate_regularisation, ramp_up, self_distillation_loss
from nnunet_moe.modalities.codes import Code, available_modalities, draw_subsets, drop_modalities
from nnunet_moe.prediction import unwrap
from nnunet_moe.settings.moesd import MoESettings, SelfDistillationSettings
from nnunet_moe.trainers.base import Levels, nnUNetTrainerMissingModality
from nnunet_moe.training_log import entropy_line, gate_entropies


class nnUNetTrainerTwoViews(nnUNetTrainerMissingModality):
    """The common base class of MoE-SD and its ablations; do not name it on the command line.

    A subclass only names its `settings_class`, which decides the terms of the loss and the experts of the network.
    """

    self_distillation: Any = None
    """The loss L_sd; None for methods without self-distillation."""

    def initialize(self) -> None:
        """Initialize as every trainer does, and build L_sd if the method uses it."""
        super().initialize()
        if isinstance(self.settings, SelfDistillationSettings):
            self.self_distillation = self._build_self_distillation_loss(self.settings.temperature)

    def backward(self, data: Tensor, target: Levels, iteration: int) -> dict[str, Tensor]:
        """Compute the loss of both views of a batch and its gradients; see the base class."""
        with self._without_synchronisation():
            teacher, full_view_parts = self.backward_full_view(data, target)
        dropped = drop_modalities(data, self.draw_codes(data, iteration))
        return full_view_parts | self.backward_dropped_view(dropped, target, teacher, iteration)

    def backward_full_view(self, data: Tensor, target: Levels) -> tuple[Levels, dict[str, Tensor]]:
        """Compute L_seg(full view) + alpha L_reg and the gradients.

        Args:
            data: `(B, C, *space)`, the K image channels first; missing channels are NaN.
            target: as nnU-Net's data loader gives it.

        Returns:
            The teacher's logits, detached, and the weighted parts of the loss by name.
        """
        with self._autocast():
            logits = self.network(data)
            parts = {"L_seg full": self.loss(logits, target)}
        settings = self.settings
        if isinstance(settings, MoESettings) and settings.alpha:
            gates = self._modality_network().gates_of_codes()
            if gates:  # empty if the setting `placement` is empty
                regularisation = sum(gate_regularisation(g, settings.specialization_sign) for g in gates)
                parts["alpha L_reg"] = settings.alpha * regularisation
        self._backward(parts)
        return _detached(logits), parts

    def backward_dropped_view(self, data: Tensor, target: Levels, teacher: Levels, iteration: int) -> dict[str, Tensor]:
        """Compute L_seg(dropped view) + w(t) beta L_sd and the gradients.

        Args:
            data: `(B, C, *space)`, the dropped view.
            target: as nnU-Net's data loader gives it.
            teacher: logits of the full view, detached.
            iteration: t, number of the iteration since the start of the training.

        Returns:
            The weighted parts of the loss by name.
        """
        with self._autocast():
            logits = self.network(data)
            parts = {"L_seg dropped": self.loss(logits, target)}
            settings = self.settings
            if isinstance(settings, SelfDistillationSettings) and settings.beta:
                total = settings.ramp_up_fraction * self.num_epochs * self.num_iterations_per_epoch
                weight = settings.beta * ramp_up(iteration, total)
                parts["w beta L_sd"] = weight * self._distilled(logits, teacher, self._valid_voxels(target))
        self._backward(parts)
        return parts

    def draw_codes(self, data: Tensor, iteration: int) -> Tensor:
        """Draw the codes of the dropped view; they depend only on seed, fold, process, iteration and the batch.

        Returns:
            `(B, K)` bool, for each item a random non-empty subset of its available modalities.
        """
        generator = torch.Generator().manual_seed(self._seed(iteration))
        return draw_subsets(available_modalities(data[:, : self._num_modalities()]), generator)

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """Log the epoch as the base class does, and how evenly each mixture uses its experts."""
        super().on_train_epoch_end(train_outputs)
        mixtures = self._modality_network().gates_of_codes()
        if entropies := [gate_entropies(gates) for gates in mixtures if gates.shape[1] > 1]:
            self.told.gate_entropy = entropies
            self.print_to_log_file(entropy_line(entropies))

    def _log_availability(self, counts: Mapping[Code, int]) -> None:
        super()._log_availability(counts)
        if all(sum(code) == 1 for code in counts):
            self.print_to_log_file(
                "WARNING: each training case has only one modality, so none can be dropped. Both views of a batch are "
                "the same, and every step is computed twice. With half the epochs, training takes as long as nnU-Net's."
            )

    def _distilled(self, logits: Levels, teacher: Levels, valid: Any) -> Tensor:
        """Compute L_sd; with label sets, in each item's own set."""
        if self.label_sets is None:
            return self.self_distillation(logits, teacher, valid)
        return self.loss.mean(
            lambda group: self.self_distillation(group.logits(logits), group.logits(teacher), group.voxels(valid))
        )

    def _build_self_distillation_loss(self, temperature: float) -> Any:
        """Build L_sd, with the same weights of deep supervision as nnU-Net's loss."""
        loss = partial(
            self_distillation_loss,
            temperature=temperature,
            regions=self.label_manager.has_regions,
            batch_dice=self.configuration_manager.batch_dice,
            sum_over_processes=_sum_over_processes if self.is_ddp and self.label_sets is None else None,
        )
        if not self.enable_deep_supervision:
            return loss
        of_nnunet = self.loss if self.label_sets is None else self.loss.loss
        return DeepSupervisionWrapper(loss, of_nnunet.weight_factors)

    def _without_synchronisation(self) -> AbstractContextManager:
        """Return a context without gradient averaging over processes, which only the last backward pass needs."""
        return self.network.no_sync() if self.is_ddp else nullcontext()

    def _valid_voxels(self, target: Levels) -> Tensor | list[Tensor | None] | None:
        """Return a mask that is false at voxels with the ignore label, for each resolution of deep supervision.

        The mask follows nnU-Net's losses. It is None if there is no ignore label.
        """
        if isinstance(target, list):
            return [self._valid_voxels(level) for level in target]  # type: ignore[misc]
        if not self.label_manager.has_ignore_label:
            return None
        if self.label_manager.has_regions:
            return target[:, -1:] == 0
        return target != self.label_manager.ignore_label

    def _modality_network(self) -> ModalityNetwork:
        network = unwrap(self.network)
        assert isinstance(network, ModalityNetwork)
        return network


def _sum_over_processes(summand: Tensor) -> Tensor:
    """Sum over processes with gradients, as nnU-Net's Dice does for a batch that is spread over processes."""
    return AllGatherGrad.apply(summand).sum(dim=0)


def _detached(logits: Levels) -> Levels:
    return [level.detach() for level in logits] if isinstance(logits, list) else logits.detach()
