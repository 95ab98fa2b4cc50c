"""The views of a batch: which modalities they have, how well their codes do, and the weights that compute them."""

from abc import ABC
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import Tensor

from nnunet_moe.architectures.modality_network import ModalityNetwork
from nnunet_moe.errors import SettingsError
from nnunet_moe.losses.any_subset import soft_overlap
from nnunet_moe.modalities.codes import available_modalities, channel_names, code_text, drop_modalities
from nnunet_moe.modalities.draws import draw_subsets, draw_supersets, draw_weighted_subsets
from nnunet_moe.prediction import unwrap
from nnunet_moe.settings.moesd import ExpertSettings
from nnunet_moe.settings.two_views import TwoViewsSettings
from nnunet_moe.trainers.base import Levels, nnUNetTrainerMissingModality
from nnunet_moe.trainers.checkpoint_extras import keep_in_checkpoints
from nnunet_moe.trainers.code_needs import CodeNeeds
from nnunet_moe.trainers.learning_rates import LastPhaseLR
from nnunet_moe.trainers.weight_average import WeightAverage


class ViewsTrainer(nnUNetTrainerMissingModality, ABC):
    """A trainer that draws views of each batch; it knows nothing of their losses."""

    settings_class = TwoViewsSettings
    settings: TwoViewsSettings

    average: WeightAverage | None = None
    """The average of the weights; None without the setting `ema_decay`."""
    needs: CodeNeeds | None = None
    """How well each code does so far; None without the setting `need_power`."""

    @classmethod
    def settings_of(cls, configuration_manager: ConfigurationManager) -> TwoViewsSettings:
        """Read the settings of a configuration, as the base class does.

        Raises:
            SettingsError: see the base class; also if settings do not fit each other.
        """
        settings = super().settings_of(configuration_manager)
        assert isinstance(settings, TwoViewsSettings)
        _require_fitting(settings)
        return settings

    def initialize(self) -> None:
        """Initialize as every trainer does, and prepare what the settings need."""
        super().initialize()
        settings = self.settings
        if settings.ema_decay:
            self.average = WeightAverage(self.network.parameters(), settings.ema_decay)
        if settings.need_power:
            self.needs = CodeNeeds(
                self.validation_codes,
                power=settings.need_power,
                floor=settings.need_floor,
                num_labels=len(self._foreground()),
                device=self.device,
            )
        if self.average is not None or self.needs is not None:
            keep_in_checkpoints(self.optimizer, self._extras, self._restore_extras)

    def configure_optimizers(self) -> Any:
        """Return nnU-Net's optimizer and rates; with `code_phase_fraction`, with a last phase for the codes."""
        optimizer, scheduler = super().configure_optimizers()
        if not (fraction := self.settings.code_phase_fraction):
            return optimizer, scheduler
        of_codes = {
            id(each): each for layer in self._modality_network().code_layers for each in layer.code_parameters()
        }
        (group,) = optimizer.param_groups
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in of_codes]
        optimizer.add_param_group({**group, "params": list(of_codes.values())})
        return optimizer, LastPhaseLR(scheduler, group, first_epoch=round((1 - fraction) * self.num_epochs))

    def on_train_epoch_start(self) -> None:
        """Start the epoch as the base class does, with the weights that are trained."""
        super().on_train_epoch_start()
        if self.average is not None:
            self.average.begin()

    def on_validation_epoch_start(self) -> None:
        """Start the validation as the base class does, with the averaged weights if there are any."""
        super().on_validation_epoch_start()
        if self.average is not None:
            self.average.show()

    def draw_codes(self, data: Tensor, iteration: int) -> Tensor:
        """Draw the codes of the dropped view.

        They depend only on seed, fold, process, iteration and the batch, and on the needs if codes are drawn by need.

        Returns:
            `(B, K)` bool, for each item a random non-empty subset of its available modalities.
        """
        generator = torch.Generator().manual_seed(self._seed(iteration))
        available = available_modalities(data[:, : self._num_modalities()])
        if self.needs is None:
            return draw_subsets(available, generator)
        return draw_weighted_subsets(available, self.needs.codes, self.needs.weights, generator)

    def full_view(self, data: Tensor, dropped: Tensor, iteration: int) -> Tensor:
        """Return the full view of a batch: all modalities of each item, or a random superset of the dropped view's.

        Args:
            data: `(B, C, *space)`, the K image channels first; missing channels are NaN.
            dropped: the dropped view, of the same shape.
            iteration: number of the iteration since the start of the training.
        """
        if self.settings.full_view == "complete":
            return data
        subset, available = (available_modalities(view[:, : self._num_modalities()]) for view in (dropped, data))
        generator = torch.Generator().manual_seed(self._seed(iteration, 0, 1))
        return drop_modalities(data, draw_supersets(subset, available, self.settings.complete_share, generator))

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """Log the epoch as the base class does, and how often each code is drawn in the next one."""
        super().on_train_epoch_end(train_outputs)
        if self.needs is not None:
            self.needs.end_epoch()
            self.print_to_log_file(self._needs_line(self.needs))

    def _clip_and_step(self) -> None:
        super()._clip_and_step()
        if self.average is not None:
            self.average.update()

    def _averaged_logits(self, data: Tensor) -> Levels:
        """Compute the logits of the averaged weights, without gradient."""
        assert self.average is not None
        with self.average.in_network(), torch.no_grad(), self._autocast():
            return self.network(data)

    def _count_need(self, data: Tensor, logits: Any, target: Any) -> None:
        """Count a view of a batch for the needs of its codes, at half of the resolution where there is one."""
        if self.needs is None:
            return
        valid: Any = self._valid_voxels(target)
        if isinstance(logits, list):
            level = min(1, len(logits) - 1)
            logits, target, valid = logits[level], target[level], valid[level]
        available = available_modalities(data[:, : self._num_modalities()])
        overlap = soft_overlap(logits, target, valid, regions=self.label_manager.has_regions)
        if self.label_sets is not None:  # what was not annotated in an item says nothing
            overlap *= self.loss.sets[:, -overlap.shape[1] :, None].to(overlap.device, non_blocking=True)
        self.needs.count(available, overlap)

    def _needs_line(self, needs: CodeNeeds) -> str:
        names = channel_names(self.dataset_json)
        weights = zip(self.validation_codes, needs.weights.tolist(), strict=True)
        return "Draws by need: " + ", ".join(f"{code_text(code, names)} {weight:.3f}" for code, weight in weights)

    def _extras(self) -> dict[str, Any]:
        """Return what a checkpoint needs in addition to nnU-Net's entries."""
        extras: dict[str, Any] = {}
        if self.average is not None:
            extras["average"] = self.average.state()
        if self.needs is not None:
            extras["needs"] = self.needs.dice
        return extras

    def _restore_extras(self, extras: dict[str, Any]) -> None:
        if self.average is not None and "average" in extras:
            self.average.restore(extras["average"])
        if self.needs is not None and "needs" in extras:
            self.needs.dice = extras["needs"].cpu()

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


def _require_fitting(settings: TwoViewsSettings) -> None:
    """Make sure that settings fit each other.

    Raises:
        SettingsError: one of them needs another one, or they exclude each other.
    """
    if settings.ema_teacher and not settings.ema_decay:
        raise SettingsError("The setting 'ema_teacher' needs averaged weights. Set 'ema_decay' too, for example 0.999.")
    if settings.ema_teacher and settings.ranking_weight:
        raise SettingsError(
            "The settings 'ema_teacher' and 'ranking_weight' exclude each other: the ranking loss needs the gradient "
            "of both views, but the averaged weights have none. Remove one of them."
        )
    depends_on_code = settings.norm_by_code or settings.rank or isinstance(settings, ExpertSettings)
    if settings.code_phase_fraction and not depends_on_code:
        raise SettingsError(
            "The setting 'code_phase_fraction' needs weights that depend on the code. Set 'norm_by_code' or 'rank', or "
            "use a trainer with experts."
        )
