"""Run recipes on phantoms from the import to the report, or estimate what they need on images of the real size.

Without options, each recipe is imported, planned, trained for two iterations, evaluated and reported with the published
rows. With `--estimate` it is planned as if the images had the size of the real ones (`phantoms.REAL`). The script then
prints the planned patch and batch, and what `study -n` says about memory.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import collect_abdomen
import draw_folds
import numpy as np
import phantoms
import yaml
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset

from nnunet_moe.cli import main
from nnunet_moe.commands.demo.small_configuration import add_small_configuration
from nnunet_moe.commands.study.definition import read_study
from nnunet_moe.commands.study.models import trained_methods
from nnunet_moe.commands.study.needs import needs_of
from nnunet_moe.commands.study.plan import StudyPlan, make_plan
from nnunet_moe.commands.study.report import write_report
from nnunet_moe.commands.study.splits import write_splits_and_patients
from nnunet_moe.modalities.codes import all_codes
from nnunet_moe.runtime.environment import trainers_known

HERE = Path(__file__).parent
STUDIES = {
    "brats2018": "split1.yaml",
    **dict.fromkeys(("brats2020", "brats2023", "isles2022", "m4oe_abdomen", "msseg2016"), "study.yaml"),
}
GRIDS = {"m4oe_abdomen": ["ct", "mri"], **{name: ["brats"] for name in ("brats2018", "brats2020", "brats2023")}}
"""Recipe -> keys of `phantoms.REAL`, where it is not its own name."""
PARTS = ("train", "val", "test")
LENGTH = {"num_epochs": 1, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1}
SUBSETS = {
    "msseg2016": ["FLAIR"],
    "isles2022": ["DWI"],
    **{name: ["T2w"] for name in ("brats2018", "brats2020", "brats2023")},
}


def cases_in(file: Path) -> list[str]:
    """Return the cases of a list."""
    return [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def first_cases(name: str) -> list[str]:
    """Return a case of each part of a split."""
    end = "1" if name == "brats2018" else ""
    return [cases_in(HERE / name / f"{part}{end}.txt")[0] for part in PARTS]


def write_phantoms(name: str, folder: Path) -> None:
    """Write tiny phantoms of a data set."""
    has_lists = (HERE / name / "import.sh").exists() and list((HERE / name).glob("*.txt"))
    getattr(phantoms, name)(folder, *([first_cases(name)] if has_lists else []), grids=phantoms.SMALL)


def imported(name: str, folder: Path, raw: Path) -> dict[str, Any]:
    """Run the import command of a recipe, and return the dataset.json that it wrote into nnUNet_raw."""
    if name == "m4oe_abdomen":
        atlas = folder / "atlas-train-dataset-1.0.1/train"
        collect_abdomen.collect(folder / "FLARE22Train", folder / "amos22", atlas, raw / "Dataset540_M4oEAbdomen")
    else:
        script = (HERE / name / "import.sh").read_text(encoding="utf-8").split("\n", 2)[2].replace("\\\n", " ")
        program, *arguments = [part.replace("$1", str(folder)) for part in shlex.split(script)]
        assert program == "nnunet_moe"
        main([*arguments, "-np", "1", "--no_pbar"])
    (written,) = raw.iterdir()
    return json.loads((written / "dataset.json").read_text(encoding="utf-8"))


def small_study(name: str, raw: Path, target: Path, **change: Any) -> Path:
    """Copy a recipe, with lists of cases that are cut to those of the raw dataset, and other settings.

    Args:
        name: of the recipe.
        raw: the folder of the raw dataset.
        target: the folder to write.
        change: keys of the study and their values.

    Returns:
        The file of the study.
    """
    file = STUDIES[name]
    content = yaml.safe_load((HERE / name / file).read_text(encoding="utf-8"))
    cases = {label.name.partition(".")[0] for label in (raw / "labelsTr").iterdir()}
    target.mkdir()
    for each in (HERE / name).iterdir():
        if each.suffix == ".txt":
            kept = [case for case in cases_in(each) if case in cases]
            (target / each.name).write_text("\n".join(kept or sorted(cases)[:1]), encoding="utf-8")
        elif each.name != file:
            shutil.copy(each, target)
    if isinstance(content.get("splits"), list):
        content["splits"] = content["splits"][:1]
    elif "splits" in content:
        (target / content["splits"]).write_text(json.dumps(draw_folds.draw_folds(raw, 3)), encoding="utf-8")
    written = target / file
    written.write_text(yaml.safe_dump({**content, **change}), encoding="utf-8")
    return written


def run_job(command: Sequence[str]) -> None:
    """Run a job of a study in this process."""
    program, *arguments = command
    if program == "nnunet_moe":
        main(arguments)
        return
    (script,) = entry_points(group="console_scripts", name=program)
    before, sys.argv = sys.argv, list(command)
    try:
        with trainers_known():
            script.load()()
    finally:
        sys.argv = before


def dry_run(name: str, workspace: Path) -> str:
    """Run a recipe on small phantoms from the import to the report, and return a line on it."""
    begun = time.time()
    write_phantoms(name, workspace / "data")
    imported(name, workspace / "data", workspace / "raw")
    (raw,) = (workspace / "raw").iterdir()
    dimensions = 2 if name == "m4oe_abdomen" else 3
    planned = {2: "2d", 3: "3d_fullres"}[dimensions]
    main(["plan_and_preprocess", "-d", raw.name, "-c", planned, "-np", "1", "-npfp", "1", "--no_pbar"])
    plans = workspace / "preprocessed" / raw.name / "nnUNetPlans.json"
    trainer = "nnUNetTrainerM4oE" if dimensions == 2 else "nnUNetTrainerMoESD"
    settings = {**LENGTH, "width": 12} if dimensions == 2 else LENGTH
    small = {"patch_size": [16] * dimensions, "features_per_stage": [4, 6], "batch_size": 2}
    add_small_configuration(plans, "tiny", **small, settings=settings)
    evaluation = {"disable_tta": True, "step_size": 1, "quality": "off"}
    evaluation |= {"codes": SUBSETS[name]} if name in SUBSETS else {}
    change = {"configuration": "tiny", "trainers": [trainer], "folds": [0], "evaluation": evaluation}
    file = small_study(name, raw, workspace / "study", **change)
    out = workspace / "out"
    plan = make_plan(file, out, "cpu")
    write_splits_and_patients(plan.study.dataset, plan.study.splits, plan.study.groups, plan.training_cases)
    out.mkdir()
    os.chdir(out)
    for job, each in plan.jobs.items():
        run_job(each.command)
        plan.marker(job).parent.mkdir(parents=True, exist_ok=True)
        plan.marker(job).touch()
    page = write_report(plan).read_text(encoding="utf-8")
    copied = len(set(re.findall(r"[\w-]+ †", page)))
    if bool(plan.study.published) != bool(copied):
        raise SystemExit(f"{name}: the report has {copied} published methods. The study has {plan.study.published}.")
    jobs = ", ".join(dict.fromkeys(job.split("/")[0] for job in plan.jobs))
    return f"{name}: {trainer}, {jobs} and report done, {copied} published methods in it, {time.time() - begun:.0f} s"


def estimate(name: str, workspace: Path) -> str:
    """Plan a recipe as if its images had the real size, and return a line on what it needs."""
    write_phantoms(name, workspace / "data")
    dataset_json = imported(name, workspace / "data", workspace / "raw")
    (raw,) = (workspace / "raw").iterdir()
    study = replace(read_study(small_study(name, raw, workspace / "study")), dataset=raw.name)
    arguments = ["-d", raw.name, "-c", study.configuration, "-np", "1", "-npfp", "1", "--no_pbar", "--no_pp"]
    main(["plan_and_preprocess", *arguments])
    folder = workspace / "preprocessed" / raw.name
    fingerprint = json.loads((folder / "dataset_fingerprint.json").read_text(encoding="utf-8"))
    number = len(fingerprint["shapes_after_crop"])
    grids = [grid for kind in GRIDS.get(name, [name]) for grid in phantoms.REAL[kind]]
    chosen = [grids[place % len(grids)] for place in range(number)]
    fingerprint |= {"shapes_after_crop": [grid.head for grid in chosen], "spacings": [grid.spacing for grid in chosen]}
    (folder / "dataset_fingerprint.json").write_text(json.dumps(fingerprint), encoding="utf-8")
    plan_experiment_dataset(int(raw.name[7:10]))
    codes = all_codes(len(dataset_json["channel_names"]))
    needs = needs_of(StudyPlan(study, codes, trained_methods(study, codes), {}, workspace / "out"))
    plans = json.loads((folder / "nnUNetPlans.json").read_text(encoding="utf-8"))
    planned = plans["configurations"][study.configuration]
    gpu = {method: None if number is None else round(number / 1e9, 1) for method, number in needs.gpu.items()}
    axes = plans["transpose_forward"]
    target = [[*np.array(grid.spacing)[axes][: 3 - len(planned["spacing"])], *planned["spacing"]] for grid in chosen]
    voxels = [
        np.prod(np.array(grid.head)[axes] * np.array(grid.spacing)[axes] / goal)
        for grid, goal in zip(chosen, target, strict=True)
    ]
    return (
        f"{name}: patch {planned['patch_size']}, batch {planned['batch_size']}; GB on the GPU {gpu}, on the host "
        f"{needs.host / 1e9:.1f}, for checkpoints {needs.disk / 1e9:.1f}; a preprocessed case at most "
        f"{np.mean(voxels) * (4 * len(codes[0]) + 1) / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"the recipes (default: all): {', '.join(STUDIES)}")
    parser.add_argument("--estimate", action="store_true", help="only plan, for images of the real size")
    options = parser.parse_args()
    # trainings augment in this process; the planner uses the variable as a number of threads, which 0 is not
    os.environ["nnUNet_n_proc_DA"] = "1" if options.estimate else "0"
    for name in options.names or STUDIES:
        with tempfile.TemporaryDirectory() as folder:
            for each in ("raw", "preprocessed", "results"):
                Path(folder, each).mkdir()
                os.environ[f"nnUNet_{each}"] = f"{folder}/{each}"
            line = (estimate if options.estimate else dry_run)(name, Path(folder))
            os.chdir(HERE)
        print(f"== {line}", flush=True)
