"""Run a study on a cohort with a 2D configuration that a CPU can train: what the benchmarks of cohorts share."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_moe.commands.demo.small_configuration import add_small_configuration
from nnunet_moe.runtime.environment import machine
from nnunet_moe.runtime.workspace import Workspace

CONFIGURATION = "2d_cpu"


@dataclass(frozen=True)
class Cohort:
    """A dataset, and the small configuration in which its studies train."""

    dataset: str
    patch_size: list[int]
    """Rows and columns, in pixels."""
    features_per_stage: list[int]
    batch_size: int
    length: dict[str, int]
    """Settings: the number of epochs, and of iterations in each."""

    def plans(self, workspace: Workspace) -> Path:
        return workspace.preprocessed / self.dataset / "nnUNetPlans.json"

    def is_raw(self, workspace: Workspace) -> bool:
        """Say whether the raw dataset is complete. Its dataset.json is written last."""
        return (workspace.raw / self.dataset / "dataset.json").exists()

    def is_preprocessed(self, workspace: Workspace) -> bool:
        """Say whether nnU-Net has preprocessed all training cases in 2D. A case's `.pkl` file is written last."""
        cases = list((workspace.raw / self.dataset / "labelsTr").iterdir())
        done = list((workspace.preprocessed / self.dataset / "nnUNetPlans_2d").glob("*.pkl"))
        return len(done) == len(cases)

    def run_study(self, workspace: Workspace, options: argparse.Namespace) -> None:
        """Add the configuration to the planned dataset, and run or resume the study of the options."""
        add_small_configuration(
            self.plans(workspace),
            CONFIGURATION,
            patch_size=self.patch_size,
            features_per_stage=self.features_per_stage,
            batch_size=self.batch_size,
            settings=self.length,
        )
        study = ("study", str(options.study), "-o", str(workspace.folder / options.study.stem))
        jobs = ("-device", options.device, "-jobs", str(options.jobs))
        workspace.run("nnunet_moe", *study, *jobs, progress=lambda line: line.rstrip())


def open_workspace(options: argparse.Namespace, data: Sequence[Path]) -> Workspace:
    """Create or reopen the folder of the results, after a check that all data are present."""
    if missing := [str(path) for path in data if not path.exists()]:
        sys.exit(f"This benchmark needs missing data: {', '.join(missing)}. Give the folder of the data with --shared.")
    print(machine())
    return Workspace(options.out, reuse=True)


def parse_options(script: Path, doc: str | None) -> argparse.Namespace:
    """Parse the options of a benchmark. By default it runs the study that lies next to it and has its name."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument(
        "--shared",
        type=Path,
        default=script.resolve().parents[2] / "shared",
        help="read the data from this folder (default: shared next to the checkout)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(script.stem),
        help="write to this folder, which must be new or from an earlier run (default: %(default)s)",
    )
    parser.add_argument(
        "--study",
        type=Path,
        default=script.with_suffix(".yaml"),
        help=f"run this study (default: {script.stem}.yaml next to this file)",
    )
    parser.add_argument("--jobs", type=int, default=1, help="run this many jobs at a time (default: %(default)s)")
    parser.add_argument(
        "--device", choices=("cpu", "cuda", "mps"), default="cpu", help="run on this device (default: %(default)s)"
    )
    return parser.parse_args()
