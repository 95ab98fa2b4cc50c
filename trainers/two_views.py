"""The base of the trainers that see two views of each batch: a subset of the modalities, and a superset of it.

L = L_seg(full view) + L_seg(dropped view) + alpha L_reg + w(t) beta L_sd (MoE-SD paper, eqs. 4 to 7). The teacher (full
view) is detached, so its graph is freed before the dropped view is computed. Therefore a step holds one view's
activations at a time, as a step of nnU-Net does, on any device and in any precision. Only the setting `ranking_weight`
needs the graphs of both views.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial, reduce
from operator import add
from typing import Any

from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from torch import Tensor

from nnunet_moe.losses.any_subset import ranking_loss
from nnunet_moe.losses.moesd import gate_regularisation, ramp_up, self_distillation_loss
from nnunet_moe.modalities.codes import Code, drop_modalities
from nnunet_moe.settings.moesd import MoESettings, SelfDistillationSettings
from nnunet_moe.trainers.base import Levels
from nnunet_moe.trainers.views import ViewsTrainer
from nnunet_moe.training_log import entropy_line, gate_entropies


class nnUNetTrainerTwoViews(ViewsTrainer):
    """The common base class of MoE-SD and its ablations; do not name it on the command line.

    A subclass only names its `settings_class`, which decides the terms of the loss and the layers of the network that
    depend on the code.
    """

    self_distillation: Any = None
    """The loss L_sd; None for methods without self-distillation."""

    def initialize(self) -> None:
        """Initialize as the base class does, and build L_sd if the method uses it."""
        super().initialize()
        if isinstance(self.settings, SelfDistillationSettings):
            self.self_distillation = self._build_self_distillation_loss(self.settings.temperature)

    def backward(self, data: Tensor, target: Levels, iteration: int) -> dict[str, Tensor]:
        """Compute the loss of both views of a batch and its gradients; see the base class."""
        dropped = drop_modalities(data, self.draw_codes(data, iteration))
        full = self.full_view(data, dropped, iteration)
        if self.settings.ema_teacher:
            return self.backward_dropped_view(dropped, target, self._averaged_logits(full), iteration)
        if weight := self.settings.ranking_weight:
            teacher, parts = self.full_view_loss(full, target)
            parts |= self.dropped_view_loss(dropped, target, teacher, iteration)
            parts["weight L_rank"] = weight * ranking_loss(parts["L_seg full"], parts["L_seg dropped"])
            self._backward(parts)
            return parts
        with self._without_synchronisation():
            teacher, parts = self.backward_full_view(full, target)
        return parts | self.backward_dropped_view(dropped, target, teacher, iteration)

    def backward_full_view(self, data: Tensor, target: Levels) -> tuple[Levels, dict[str, Tensor]]:
        """Compute `full_view_loss` and the gradients; the logits are detached."""
        logits, parts = self.full_view_loss(data, target)
        self._backward(parts)
        return _detached(logits), parts

    def full_view_loss(self, data: Tensor, target: Levels) -> tuple[Levels, dict[str, Tensor]]:
        """Compute L_seg(full view) + alpha L_reg.

        Args:
            data: `(B, C, *space)`, the K image channels first; missing channels are NaN.
            target: as nnU-Net's data loader gives it.

        Returns:
            The teacher's logits, and the weighted parts of the loss by name.
        """
        with self._autocast():
            logits = self.network(data)
            parts = {"L_seg full": self.loss(logits, target)}
        self._count_need(data, logits, target)
        return logits, parts | self._regularisation()

    def backward_dropped_view(self, data: Tensor, target: Levels, teacher: Levels, iteration: int) -> dict[str, Tensor]:
        """Compute `dropped_view_loss` and the gradients."""
        parts = self.dropped_view_loss(data, target, teacher, iteration)
        if self.settings.ema_teacher:
            parts |= self._regularisation()
        self._backward(parts)
        return parts

    def dropped_view_loss(self, data: Tensor, target: Levels, teacher: Levels, iteration: int) -> dict[str, Tensor]:
        """Compute L_seg(dropped view) + w(t) beta L_sd.

        Args:
            data: `(B, C, *space)`, the dropped view.
            target: as nnU-Net's data loader gives it.
            teacher: logits of the full view; they get no gradient.
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
        self._count_need(data, logits, target)
        return parts

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """Log the epoch as the base class does, and how evenly each mixture uses its experts."""
        super().on_train_epoch_end(train_outputs)
        mixtures = self._modality_network().gates_of_codes()
        if entropies := [gate_entropies(gates) for gates in mixtures if gates.shape[1] > 1]:
            self.told.gate_entropy = entropies
            self.print_to_log_file(entropy_line(entropies))

    def _regularisation(self) -> dict[str, Tensor]:
        """Compute alpha L_reg of all mixtures; empty if the method has none."""
        settings = self.settings
        if not (isinstance(settings, MoESettings) and settings.alpha):
            return {}
        gates = self._modality_network().gates_of_codes()
        if not gates:  # the setting `placement` is empty
            return {}
        parts = [gate_regularisation(of_layer, settings.specialization_sign) for of_layer in gates]
        return {"alpha L_reg": settings.alpha * reduce(add, parts)}

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


def _sum_over_processes(summand: Tensor) -> Tensor:
    """Sum over processes with gradients, as nnU-Net's Dice does for a batch that is spread over processes."""
    return AllGatherGrad.apply(summand).sum(dim=0)


def _detached(logits: Levels) -> Levels:
    return [level.detach() for level in logits] if isinstance(logits, list) else logits.detach()
