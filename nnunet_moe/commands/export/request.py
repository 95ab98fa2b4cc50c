"""The options of `nnunet_moe export`."""

from dataclasses import dataclass
from pathlib import Path

from nnunet_moe.errors import SettingsError
from nnunet_moe.models.choice import ModelChoice
from nnunet_moe.runtime.options import one_of, option, options_of


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of `nnunet_moe export`: what to export, and where to.

    Raises:
        SettingsError: `dataset_id` is out of range, or is given together with all subsets.
    """

    model: ModelChoice = options_of(ModelChoice)
    modalities: str | None = one_of(
        option(
            "-m",
            metavar="CODE",
            group="modalities and labels",
            help="export these modalities, given as T1w+FLAIR or 101",
        ),
        option(
            "--all",
            action="store_const",
            const=None,
            group="modalities and labels",
            help="export every subset, each to its own folder below -o",
        ),
    )
    """One subset, by names (`T1w+FLAIR`) or digits (`101`). None: every subset, each in its own folder."""
    out: Path = option(
        "-o", type=Path, group="input and output", help="write the model to this folder, which must be empty or new"
    )
    dataset_id: int | None = option(
        "-dataset_id",
        type=int,
        default=None,
        group="input and output",
        help="write the model to DatasetXXX_MODALITIES/TRAINER__PLANS__CONFIGURATION below -o, this number for XXX; "
        "nnUNetv2_predict and 3D Slicer's nnU-Net extension read this layout (default: write it to -o itself)",
    )
    scores: Path | None = option(
        "-scores",
        type=Path,
        default=None,
        group="input and output",
        help="read this output folder of `nnunet_moe evaluate` and show its scores in the model card (default: none)",
    )
    onnx: bool = option(
        "--onnx", action="store_true", group="input and output", help="write the network of each fold as ONNX, too"
    )

    def __post_init__(self) -> None:
        if self.dataset_id is None:
            return
        if self.modalities is None:
            raise SettingsError(
                "-dataset_id gives one model a number, but --all writes several. Export each subset with -m and a "
                "number of its own."
            )
        if not 1 <= self.dataset_id <= 999:
            raise SettingsError(f"-dataset_id {self.dataset_id}: numbers of datasets are 1 to 999. Choose a free one.")
