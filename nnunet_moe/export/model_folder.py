"""The folder of one ordinary nnU-Net model."""

import json
from dataclasses import dataclass
from importlib.metadata import version
from math import prod
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from nnunetv2.evaluation.evaluate_predictions import save_summary_json
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_moe.codes import Code, channel_names, code_digits, code_text
from nnunet_moe.evaluation.scoring import labels_of
from nnunet_moe.export.channels import dataset_json_of, fingerprint_of, plans_of
from nnunet_moe.export.fixed_code import load_fixed, present_channels, require_equal
from nnunet_moe.export.onnx_file import write_onnx
from nnunet_moe.export.scores import Scores
from nnunet_moe.export.source import STOCK_TRAINER, Source
from nnunet_moe.trained import Fold, planned_network

PACKAGES = ("nnunet-moe", "nnunetv2", "torch")


@dataclass(frozen=True)
class _WrittenFold:
    """What the model card tells of a fold."""

    epoch: int
    digest: str
    """SHA-256 of the checkpoint that it was made from."""


class ModelFolder:
    """A source under one code, as an ordinary model.

    Args:
        source: its network holds the weights of the fold that is written.
        code: K bools.
        folder: to write.
        scores: of the source under this code, if they are known.
        onnx: whether to write the networks as ONNX too.
    """

    def __init__(self, source: Source, code: Code, folder: Path, *, scores: Scores | None, onnx: bool) -> None:
        self.source, self.code, self.folder, self.scores, self.onnx = source, code, folder, scores, onnx
        self.plans, self.dataset_json = plans_of(source.plans, code), dataset_json_of(source.dataset_json, code)
        manager = PlansManager(self.plans)
        self.configuration = manager.get_configuration(source.model.configuration)
        self.network = planned_network(
            STOCK_TRAINER, manager, self.configuration, self.dataset_json, deep_supervision=False
        ).eval()
        self.num_inputs = len(present_channels(source.num_inputs, code))
        self.divisors = [prod(steps) for steps in zip(*self.configuration.pool_op_kernel_sizes, strict=True)]
        self.any_space = False
        """Whether the space of the ONNX files may have any size."""
        self.folds: dict[Fold, _WrittenFold] = {}

    def write_fold(self, fold: Fold, checkpoint: dict[str, Any], digest: str) -> None:
        """Write what nnU-Net's tools read of a fold.

        Args:
            fold: the one that the source's network holds.
            checkpoint: of the source.
            digest: of the checkpoint's file.

        Raises:
            ModelError: the network does not become the one that nnU-Net plans.
        """
        coarsest = (*self.divisors[:-1], 2 * self.divisors[-1])  # two voxels at the bottom: one has no variance
        require_equal(self.network, self.source.network, self.code, (self.source.num_inputs, *coarsest))
        load_fixed(self.network, self.source.network, self.code)
        folder = self.folder / f"fold_{fold}"
        (folder / "validation").mkdir(parents=True)
        arguments = {
            "plans": self.plans,
            "configuration": self.source.model.configuration,
            "fold": fold,
            "dataset_json": self.dataset_json,
        }
        torch.save(
            {
                "network_weights": self.network.state_dict(),
                "trainer_name": STOCK_TRAINER,
                "init_args": arguments,
                "inference_allowed_mirroring_axes": checkpoint["inference_allowed_mirroring_axes"],
            },
            folder / "checkpoint_final.pth",
        )
        curves = LocalLogger()
        curves.load_checkpoint(checkpoint["logging"])
        curves.plot_progress_png(str(folder))  # nnUNetv2_export_model_to_zip wants this and the summary
        save_summary_json(self._summary(), str(folder / "validation" / "summary.json"))
        self.folds[fold] = _WrittenFold(checkpoint["current_epoch"], digest)
        if self.onnx:
            file, patch = folder / "model.onnx", self.configuration.patch_size
            self.any_space = write_onnx(self.network, file, self.num_inputs, self.divisors, patch)

    def write_rest(self) -> None:
        """Write what all folds share, and the model card."""
        contents = {"plans": self.plans, "dataset": self.dataset_json}
        if self.source.fingerprint is not None:
            contents["dataset_fingerprint"] = fingerprint_of(self.source.fingerprint, self.code)
        for name, content in contents.items():
            (self.folder / f"{name}.json").write_text(json.dumps(content, indent=4))
        environment = Environment(loader=PackageLoader("nnunet_moe.export", ""), undefined=StrictUndefined)
        (self.folder / "README.md").write_text(environment.get_template("card.md.jinja").render(self._card()))

    def _summary(self) -> dict[str, Any]:
        """In nnU-Net's form: the means under this code where they are known, and no cases, whose names are private."""
        dice = {} if self.scores is None else self.scores.dice()
        means = {label: {"Dice": dice[name]} for name, label in labels_of(self.dataset_json).items() if name in dice}
        foreground = {"Dice": fmean(mean["Dice"] for mean in means.values())} if means else {}
        return {"metric_per_case": [], "mean": means, "foreground_mean": foreground}

    def _card(self) -> dict[str, Any]:
        source, model = self.source, self.source.model
        return {
            "modalities": code_text(self.code, source.modalities),
            "names": channel_names(self.dataset_json),
            "channels": [channel for channel, available in enumerate(self.code) if available],
            "all_modalities": ", ".join(source.modalities),
            "code": code_digits(self.code),
            "dataset": model.folder.parent.name,
            "trainer": model.trainer,
            "plans": model.plans,
            "configuration": model.configuration,
            "previous_stage": source.previous_stage,
            "checkpoint": model.checkpoint,
            "folds": self.folds,
            "file_ending": self.dataset_json["file_ending"],
            "onnx": self.onnx,
            "any_space": self.any_space,
            "num_inputs": self.num_inputs,
            "space": "space" if self.any_space else ", ".join(map(str, self.configuration.patch_size)),
            "divisors": " x ".join(map(str, self.divisors)),
            "heads": next(reversed(self.network.state_dict().values())).shape[0],
            "versions": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
            "scores": self.scores,
        }
