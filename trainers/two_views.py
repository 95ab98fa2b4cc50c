"""The trainers of MoE-SD and its ablations: two views of each batch, differentiated one after the other.

L = L_seg(full view) + L_seg(dropped view) + alpha L_reg + w(t) beta L_sd (paper, eqs. 4 to 7). The teacher (full view)
is detached, so its graph is freed before the dropped view is computed: peak memory is that of one nnU-Net step.
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
    """Their common base; not meant to be named on the command line. A subclass is its `settings_class`."""

    self_distillation: Any = None

    def initialize(self) -> None:
        super().initialize()
        if isinstance(self.settings, SelfDistillationSettings):
            self.self_distillation = self._build_self_distillation_loss(self.settings.temperature)

    def backward(self, data: Tensor, target: Levels, iteration: int) -> dict[str, Tensor]:
        """Differentiate the loss of both views of a batch."""
        with self._without_synchronisation():
            teacher, full_view_parts = self.backward_full_view(data, target)
        dropped = drop_modalities(data, self.draw_codes(data, iteration))
        return full_view_parts | self.backward_dropped_view(dropped, target, teacher, iteration)

    def backward_full_view(self, data: Tensor, target: Levels) -> tuple[Levels, dict[str, Tensor]]:
        """Differentiate L_seg(full view) + alpha L_reg.

        Returns:
            The teacher's logits, detached, and the weighted parts of the loss.
        """
        with self._autocast():
            logits = self.network(data)
            parts = {"L_seg full": self.loss(logits, target)}
        settings = self.settings
        if isinstance(settings, MoESettings) and settings.alpha:
            gates = self._modality_network().gates_of_codes()
            if gates:  # there are none without a placement
                regularisation = sum(gate_regularisation(g, settings.specialization_sign) for g in gates)
                parts["alpha L_reg"] = settings.alpha * regularisation
        self._backward(parts)
        return _detached(logits), parts

    def backward_dropped_view(self, data: Tensor, target: Levels, teacher: Levels, iteration: int) -> dict[str, Tensor]:
        """Differentiate L_seg(dropped view) + w(t) beta L_sd.

        Returns:
            The weighted parts of the loss.
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
        """The codes `(B, K)` of the dropped view; they depend on seed, fold, process and iteration alone."""
        generator = torch.Generator().manual_seed(self._seed(iteration))
        return draw_subsets(available_modalities(data[:, : self._num_modalities()]), generator)

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """The base's; the log also tells how evenly each mixture uses its experts."""
        super().on_train_epoch_end(train_outputs)
        mixtures = self._modality_network().gates_of_codes()
        if entropies := [gate_entropies(gates) for gates in mixtures if gates.shape[1] > 1]:
            self.told.gate_entropy = entropies
            self.print_to_log_file(entropy_line(entropies))

    def _log_availability(self, counts: Mapping[Code, int]) -> None:
        super()._log_availability(counts)
        if all(sum(code) == 1 for code in counts):
            self.print_to_log_file(
                "WARNING: each training case has one modality, of which none can be dropped: both views of a batch are "
                "the same, so that every step is computed twice. Half the epochs take as long as nnU-Net's."
            )

    def _distilled(self, logits: Levels, teacher: Levels, valid: Any) -> Tensor:
        """L_sd, of each item in its own label set."""
        if self.label_sets is None:
            return self.self_distillation(logits, teacher, valid)
        return self.loss.mean(
            lambda group: self.self_distillation(group.logits(logits), group.logits(teacher), group.voxels(valid))
        )

    def _build_self_distillation_loss(self, temperature: float) -> Any:
        """L_sd with the weights of deep supervision that nnU-Net's loss has."""
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
        """Of the two backward passes the last one alone averages the gradients over processes."""
        return self.network.no_sync() if self.is_ddp else nullcontext()

    def _valid_voxels(self, target: Levels) -> Tensor | list[Tensor | None] | None:
        """True where the ignore label is not; as nnU-Net's losses find it, in each level of deep supervision."""
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
    """As nnU-Net's own Dice does for a batch that is spread over processes."""
    return AllGatherGrad.apply(summand).sum(dim=0)


def _detached(logits: Levels) -> Levels:
    return [level.detach() for level in logits] if isinstance(logits, list) else logits.detach()
