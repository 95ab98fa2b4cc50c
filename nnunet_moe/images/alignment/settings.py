"""The options of all commands that can align the files of a case."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from nnunet_moe.errors import SettingsError
from nnunet_moe.runtime.options import option

Align: TypeAlias = Literal["off", "grid", "rigid", "rigid_all"]
OFF, GRID, RIGID, RIGID_ALL = "off", "grid", "rigid", "rigid_all"
CHOICES = OFF, GRID, RIGID, RIGID_ALL
LEAST_COVERED = 0.5
KEY = "alignment"
"""The key in dataset.json that says how `nnunet_moe import` aligned the cases: a table with `align`, `reference` and
`min_covered`. Datasets of earlier versions lack the last one."""


@dataclass(frozen=True, kw_only=True)
class AlignmentSettings:
    """How the files of a case are brought onto one grid.

    Raises:
        SettingsError: a setting is out of range, or has no effect.
    """

    align: Align | None = option(
        "--align",
        choices=CHOICES,
        default=None,
        group="alignment",
        help="resample the files of a case onto one grid: by the positions in their headers (grid), or with a rigid "
        "registration in addition, of files that do not share a frame of reference (rigid) or of all files "
        "(rigid_all); off refuses files on different grids (default: as `nnunet_moe import` did for the training "
        "cases, otherwise off)",
    )
    """None: as the training cases."""
    reference: str | None = option(
        "--reference",
        default=None,
        metavar="NAME",
        group="alignment",
        help="use the grid of this modality where it is available (default: the available modality with the smallest "
        "voxels)",
    )
    least_covered: float | None = option(
        "--min_covered",
        type=float,
        default=None,
        metavar="SHARE",
        group="alignment",
        help="fail cases in which a file covers a smaller share of the reference's foreground (default: as `nnunet_moe "
        f"import` did for the training cases, otherwise {LEAST_COVERED})",
    )
    """None: as the training cases, otherwise `LEAST_COVERED`."""

    def __post_init__(self) -> None:
        if self.align not in (None, *CHOICES):
            raise SettingsError(f"{self.name('align')} is {self.align!r}. Choose one of {', '.join(CHOICES)}.")
        share = self.share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise SettingsError(f"{self.name('min_covered')} is {share!r}. Choose a share from 0 to 1.")

    def name(self, option: str, value: str | None = None) -> str:
        """Return how messages call `align`, `reference` or `min_covered`, perhaps with a value."""
        return f"--{option}" if value is None else f"--{option} {value}"

    @property
    def share(self) -> float:
        """The share of the reference's foreground that a file must cover."""
        return LEAST_COVERED if self.least_covered is None else self.least_covered

    @property
    def is_on(self) -> bool:
        """Whether files are aligned; False as long as `align` is None."""
        return self.align in (GRID, RIGID, RIGID_ALL)

    @property
    def registers(self) -> bool:
        """Whether files are registered, too."""
        return self.align in (RIGID, RIGID_ALL)

    def for_dataset(self, dataset_json: Mapping[str, Any], modalities: Sequence[str]) -> "AlignmentSettings":
        """Return the settings with those of the training cases where none were given.

        Args:
            dataset_json: the content of dataset.json; empty for a new dataset.
            modalities: names in channel order.

        Raises:
            SettingsError: the settings in dataset.json are wrong, the reference is unknown, or it has no effect.
        """
        trained = dataset_json.get(KEY, {})
        if not isinstance(trained, Mapping) or not trained.keys() <= {"align", "reference", "min_covered"}:
            raise SettingsError(
                f"{KEY!r} in dataset.json is {trained!r}. It must be a table with align, reference and min_covered."
            )
        settings = replace(
            self,
            align=self.align or trained.get("align", OFF),
            reference=self.reference or trained.get("reference"),
            least_covered=trained.get("min_covered") if self.least_covered is None else self.least_covered,
        )
        if settings.reference is not None and settings.reference not in modalities:
            raise SettingsError(
                f"{self.name('reference', settings.reference)}: there is no such modality. Choose from "
                f"{', '.join(modalities)}."
            )
        if not settings.is_on and (self.reference is not None or self.share != LEAST_COVERED):
            raise SettingsError(
                f"{self.name('reference')} and {self.name('min_covered')} have an effect only with "
                f"{self.name('align')}. Add {self.name('align', GRID)} or {self.name('align', RIGID)}."
            )
        return settings

    def description(self) -> dict[str, Any]:
        """Return what dataset.json says about the alignment of its cases."""
        return {"align": self.align, "reference": self.reference, "min_covered": self.share}
