"""The folder of one ordinary nnU-Net model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import save_summary_json
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunet_moe.architectures.fixed_code import require_equal
from nnunet_moe.commands.export.channels import dataset_json_of, fingerprint_of, plans_of
from nnunet_moe.commands.export.onnx_file import write_onnx
from nnunet_moe.commands.export.source import STOCK_TRAINER, LoadedFold, Source
from nnunet_moe.labels.label_sets import covered, labels_in
from nnunet_moe.labels.labels import label_values
from nnunet_moe.modalities.codes import Code, code_digits, code_text, present_channels
from nnunet_moe.models.choice import Fold
from nnunet_moe.models.networks import planned_network
from nnunet_moe.reports.evaluation_folder import Scores
from nnunet_moe.reports.templates import templates
from nnunet_moe.runtime.environment import versions

NO_CASES = {"metric_per_case": [], "mean": {}, "foreground_mean": {}}
"""The summary that nnU-Net writes for a validation without cases."""


@dataclass(frozen=True)
class WrittenFold:
    """What the model card says about a fold."""

    epoch: int | None
    digest: str
    """SHA-256 of the checkpoint that the fold was exported from."""
    onnx_takes_any_space: bool


class ExportedModel:
    """The source model for one code, as an ordinary nnU-Net model.

    Args:
        source: the trained model.
        code: K bools, at least one true.
        folder: the folder to write.
    """

    def __init__(self, source: Source, code: Code, folder: Path) -> None:
        self.source, self.code, self.folder = source, code, folder
        self.plans, self.dataset_json = plans_of(source.plans, code), dataset_json_of(source.dataset_json, code)
        self._manager = PlansManager(self.plans)
        self._configuration = self._manager.get_configuration(source.model.configuration)
        self._num_inputs = len(present_channels(source.num_channels, code))
        dimensions = len(self._configuration.patch_size)
        strides = [np.broadcast_to(stride, dimensions) for stride in self._configuration.pool_op_kernel_sizes]
        self._divisors = [int(divisor) for divisor in np.prod(strides, axis=0)]

    def write_fold(self, loaded: LoadedFold, *, onnx: bool) -> WrittenFold:
        """Write the files of a fold that nnU-Net's tools read, and on request its network as ONNX.

        Raises:
            ModelError: the network differs from the one that nnU-Net plans, or cannot be written as ONNX.
        """
        folder = self.folder / f"fold_{loaded.fold}"
        folder.mkdir(parents=True)
        network = loaded.network.fixed(self.code, self._planned)
        if self.source.becomes_ordinary:
            # two voxels at the bottom: one has no variance
            coarsest = (*self._divisors[:-1], 2 * self._divisors[-1])
            require_equal(network, loaded.network, self.code, (self.source.num_channels, *coarsest))
            self._write_checkpoint(network, loaded, folder)
        patch = self._configuration.patch_size
        divisors = self._divisors if loaded.network.takes_any_space else None
        any_space = onnx and write_onnx(network, folder / "model.onnx", self._num_inputs, divisors, patch)
        return WrittenFold(loaded.epoch, loaded.digest, any_space)

    def _planned(self) -> nn.Module:
        """Return the network that nnU-Net plans for the channels of the code."""
        return planned_network(
            STOCK_TRAINER, self._manager, self._configuration, self.dataset_json, deep_supervision=False
        )

    def _write_checkpoint(self, network: nn.Module, loaded: LoadedFold, folder: Path) -> None:
        """Write the files of a fold that nnU-Net's tools read."""
        (folder / "validation").mkdir()
        arguments = {
            "plans": self.plans,
            "configuration": self.source.model.configuration,
            "fold": loaded.fold,
            "dataset_json": self.dataset_json,
        }
        torch.save(
            {
                "network_weights": network.state_dict(),
                "trainer_name": STOCK_TRAINER,
                "init_args": arguments,
                "inference_allowed_mirroring_axes": loaded.mirroring_axes,
            },
            folder / "checkpoint_final.pth",
        )
        if loaded.log and all(loaded.log.values()):  # nnUNetv2_export_model_to_zip needs the curves and the summary
            curves = LocalLogger()
            curves.load_checkpoint(loaded.log)
            curves.plot_progress_png(str(folder))
        save_summary_json(NO_CASES, str(folder / "validation" / "summary.json"))

    def write_rest(
        self, folds: Mapping[Fold, WrittenFold], scores: Scores | None, *, onnx: bool, dataset_id: int | None
    ) -> None:
        """Write the files that all folds share, and the model card.

        Args:
            folds: the results of `write_fold`.
            scores: the scores of the source for this code; None if they are not known.
            onnx: whether the folds have ONNX files.
            dataset_id: the number of the dataset in whose place the folder lies; None for a folder elsewhere.
        """
        contents = {
            "plans": self.plans,
            "dataset": self.dataset_json,
            "dataset_fingerprint": fingerprint_of(self.source.fingerprint, self.code),
        }
        for name, content in contents.items():
            (self.folder / f"{name}.json").write_text(json.dumps(content, indent=4), encoding="utf-8")
        source, any_space = self.source, all(fold.onnx_takes_any_space for fold in folds.values())
        template = templates("nnunet_moe.commands.export").get_template("card.md.jinja")
        card = template.render(
            modalities=code_text(self.code, source.modalities),
            dataset_id=dataset_id,
            channels={channel: source.modalities[channel] for channel in present_channels(len(self.code), self.code)},
            takes_one_image_type=source.network.takes_one_image_type,
            trained_for=None if source.is_dedicated else source.modalities,
            code=code_digits(self.code),
            dataset=source.model.folder.parent.name,
            model=source.model,
            previous_stage=source.previous_stage,
            folds=folds,
            labels=label_values(self.dataset_json),
            never=self._never(),
            file_ending=self.dataset_json["file_ending"],
            onnx=onnx,
            is_ordinary=source.becomes_ordinary,
            any_space=any_space,
            num_inputs=self._num_inputs,
            num_outputs=self._manager.get_label_manager(self.dataset_json).num_segmentation_heads,
            space="space" if any_space else _sizes(self._configuration.patch_size, ", "),
            divisors=_sizes(self._divisors, " x "),
            versions=versions("nnunet-moe", "nnunetv2", "torch"),
            scores=scores,
        )
        (self.folder / "README.md").write_text(card, encoding="utf-8")

    def _never(self) -> list[str]:
        """Return the labels or regions that never appear with these modalities, because nobody annotated them there."""
        by_modality = self.source.network.label_sets
        if by_modality is None:
            return []
        return list(labels_in(self.source.dataset_json, ~covered(torch.tensor([self.code]), by_modality)[0]))


def _sizes(sizes: Sequence[int], separator: str) -> str:
    return separator.join(map(str, sizes))
