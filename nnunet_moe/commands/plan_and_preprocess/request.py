"""The options of `nnunet_moe plan_and_preprocess`, with the names and defaults of nnU-Net's command."""

from dataclasses import dataclass

from nnunet_moe.errors import SettingsError
from nnunet_moe.runtime.options import option

DEFAULT_PROCESSES = {"2d": 8, "3d_fullres": 4, "3d_lowres": 8}
"""nnU-Net's defaults; any other configuration gets 4."""
FINGERPRINT_PROCESSES = 8
"""nnU-Net's default."""


EXTRACTOR, PREPROCESSOR = "DatasetFingerprintExtractor", "DefaultPreprocessor"


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of `nnunet_moe plan_and_preprocess`.

    Raises:
        SettingsError: an option is out of range, or the extractor or preprocessor is not nnU-Net's default.
    """

    datasets: tuple[str, ...] = option(
        "-d", nargs="+", group="input and output", help="plan these datasets, by name or id"
    )
    configurations: tuple[str, ...] = option(
        "-c",
        nargs="+",
        default=("2d", "3d_fullres", "3d_lowres"),
        group="planning",
        help="preprocess these configurations (default: %(default)s)",
    )
    planner: str = option(
        "-pl", default="ExperimentPlanner", group="planning", help="use this planner (default: %(default)s)"
    )
    gpu_memory_target: float | None = option(
        "-gpu_memory_target",
        type=float,
        default=None,
        group="planning",
        help="plan for this much GPU memory in GB (default: the planner's)",
    )
    target_spacing: tuple[float, ...] | None = option(
        "-overwrite_target_spacing",
        type=float,
        nargs="+",
        default=None,
        metavar="MM",
        group="planning",
        help="resample 3d_fullres to this spacing, three numbers in mm (default: the planner's)",
    )
    plans_name: str | None = option(
        "-overwrite_plans_name",
        default=None,
        group="planning",
        help="save the plans under this name (default: the planner's)",
    )
    num_processes: tuple[int, ...] | None = option(
        "-np",
        type=int,
        nargs="+",
        default=None,
        group="compute",
        help="preprocess in this many processes, one number or one per configuration (default: 8 for 2d and "
        "3d_lowres, 4 for others; fewer if memory is short)",
    )
    """One number for all configurations, or one per configuration."""
    fingerprint_processes: int | None = option(
        "-npfp",
        type=int,
        default=None,
        group="compute",
        help="extract the fingerprint in this many processes (default: 8; fewer if memory is short)",
    )
    verify: bool = option(
        "--verify_dataset_integrity",
        action="store_true",
        group="input and output",
        help="check all cases first; recommended once per dataset",
    )
    refuse_copies: bool = option(
        "--refuse_copies",
        action="store_true",
        group="modalities and labels",
        help="check all cases first, and stop if a file of a case is a copy of another one",
    )
    clean: bool = option(
        "--clean", action="store_true", group="planning", help="recompute the fingerprint; needed after files changed"
    )
    preprocess: bool = option("--no_pp", action="store_false", group="planning", help="plan without preprocessing")
    extractor: str = option(
        "-fpe",
        default=EXTRACTOR,
        group="planning",
        help="accept only nnU-Net's default fingerprint extractor (default: %(default)s)",
    )
    preprocessor: str = option(
        "-preprocessor_name",
        default=PREPROCESSOR,
        group="planning",
        help="accept only nnU-Net's default preprocessor (default: %(default)s)",
    )
    verbose: bool = option("--verbose", action="store_true", group="compute", help="print more messages")
    show_progress: bool = option("--no_pbar", action="store_false", group="compute", help="hide the progress bars")

    def __post_init__(self) -> None:
        for flag, name, default, what in (
            ("-fpe", self.extractor, EXTRACTOR, "fingerprint extractor"),
            ("-preprocessor_name", self.preprocessor, PREPROCESSOR, "preprocessor"),
        ):
            if name != default:
                raise SettingsError(
                    f"{flag} {name} is not supported. This package replaces nnU-Net's {default}, but no other {what}. "
                    f"Remove {flag}."
                )
        for flag, numbers in (("-npfp", (self.fingerprint_processes,)), ("-np", self.num_processes or ())):
            if any(number is not None and number < 1 for number in numbers):
                raise SettingsError(
                    f"{flag} is {' '.join(map(str, numbers))}. Numbers of processes start at 1. Change them."
                )
        if self.num_processes is not None and len(self.num_processes) not in (1, len(self.configurations)):
            raise SettingsError(
                f"-np has {len(self.num_processes)} numbers for {len(self.configurations)} configurations. Give one "
                "number, or one per configuration."
            )
        if self.target_spacing is not None and (len(self.target_spacing) != 3 or min(self.target_spacing) <= 0):
            text = " ".join(map(str, self.target_spacing))
            raise SettingsError(f"-overwrite_target_spacing is {text}. Give three numbers above 0, in mm.")
        if self.gpu_memory_target is not None and not self.gpu_memory_target > 0:
            raise SettingsError(f"-gpu_memory_target is {self.gpu_memory_target}. Give a number above 0, in GB.")

    def processes(self) -> list[int]:
        """Return the number of processes that preprocess each configuration."""
        if self.num_processes is None:
            return [DEFAULT_PROCESSES.get(name, 4) for name in self.configurations]
        if len(self.num_processes) == 1:
            return list(self.num_processes) * len(self.configurations)
        return list(self.num_processes)
