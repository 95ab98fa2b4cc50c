"""Compare the files that two versions of this package write, on tiny phantoms and a CPU.

    PYTHONPATH=OLD python benchmarks/same_outputs.py make FOLDER      # data, trainings, outputs of every verb
    cp -a FOLDER BEGUN
    PYTHONPATH=OLD python benchmarks/same_outputs.py resume FOLDER    # finishes unfinished runs, repeats all outputs
    mv FOLDER BEFORE; mv BEGUN FOLDER
    PYTHONPATH=NEW python benchmarks/same_outputs.py resume FOLDER
    python benchmarks/same_outputs.py compare BEFORE FOLDER

OLD and NEW are checkouts. Keep to these rules:

- Run the script outside of both checkouts, because Python looks into the current folder first.
- Run both versions in the same folder, because some files contain paths.

Files that `make` wrote are copies of each other in both folders. They are recognized by their time of change and do
not count. For pictures, only their presence is compared. `train FOLDER` repeats the trainings of `make`, to compare
weights.

All images are simulated. The script uses only commands, so that it works with versions whose modules have other names.
`make` takes about half an hour on two cores, and `resume` a third of that.
"""

import argparse
import copy
import csv
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

HEADS, TYPES = "Dataset911_Heads", "Dataset912_Types"
LENGTH = {"num_epochs": 2, "num_iterations_per_epoch": 3, "num_val_iterations_per_epoch": 7}
ODD = {"num_experts": 2, "teacher": "FLAIR", "width": 12, "seed": 3, "alpha": 0.2, "warm_up_fraction": 0.0}
"""Settings of several methods at once."""
MODALITIES = {"T1w": "t1", "T2w": "t2", "FLAIR": "fl"}
LACKING = ((1, 0), (2, 1), (3, 2), (7, 1))
"""(Case, channel) of the files that are missing."""
TRAININGS = (
    *((911, "3d_small", 0, name) for name in ("MoESD", "ModalityDropout", "LCKD", "DynamicStem")),
    (911, "3d_small", 1, "MoESD"),
    (911, "3d_t1fl", 0, "Dedicated"),
    *((912, "2d_small", 0, name) for name in ("M4oE", "M4oENoGate", "M4oEMAE")),
    *((911, "3d_odd", 0, f"MoE{name}") for name in ("SDPaper", "NoReg", "Stem")),
    *((911, "3d_odd", 0, name) for name in ("SD", "LCKDFixedTeacher", "LCKDRandomTeacher")),
)
STOPPED = """
import torch
from nnunetv2.run.run_training import get_trainer_from_args
trainer = get_trainer_from_args("911", "3d_four", 0, "nnUNetTrainerMoESD", "nnUNetPlans", device=torch.device("cpu"))
trainer.save_every, end = 2, trainer.on_epoch_end
def stop():
    end()
    if trainer.current_epoch == 2:
        raise SystemExit
trainer.on_epoch_end = stop
trainer.run_training()
"""
STUDY = """dataset: 911
configuration: 3d_small
trainers:
  - {trainer: nnUNetTrainerModalityDropout, seeds: [0, 1]}
%sbaseline: nnUNetTrainerModalityDropout
settings: {num_epochs: 1, num_iterations_per_epoch: 2, num_val_iterations_per_epoch: 7}
evaluation: {codes: [T1w, T1w+FLAIR, T1w+T2w+FLAIR], disable_tta: true}
"""
PASSED_OVER = re.compile(
    r"(^|/)(logs\w*|times|locks_\w+|__pycache__|\.snakemake|debug\.json|snakemake\.log|jobs\.json|running\.lock)(/|$)"
    r"|\.whl$|training_log_.*\.txt$|learning_curves\.jsonl$"
)
"""Files that are not compared: logs, files with times, and files that an older version did not write."""
TIMES = ("epoch_start_timestamps", "epoch_end_timestamps", "timestamps")


class Folder:
    """A folder with nnU-Net's folders and the outputs of all commands."""

    def __init__(self, folder: Path, logs: str) -> None:
        self.folder, self.logs, self._number = folder.resolve(), folder.resolve() / f"logs_{logs}", 0
        bin_folder = Path(sys.executable).parent
        folders = {f"nnUNet_{name}": str(self.folder / f"nnUNet_{name}") for name in ("raw", "preprocessed", "results")}
        threads = {
            "OMP_NUM_THREADS": "1",
            "nnUNet_def_n_proc": "1",
            "nnUNet_n_proc_DA": "0",
        }  # one thread and process make runs repeatable
        self._environment = {
            **os.environ,
            **threads,
            **folders,
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        }
        for path in (self.logs, *map(Path, folders.values())):
            path.mkdir(parents=True, exist_ok=True)
        line = subprocess.run(
            [sys.executable, "-m", "nnunet_moe", "env", "--shell", "bash"], capture_output=True, text=True, check=True
        ).stdout
        self._environment["nnUNet_extTrainer"] = line.partition("=")[2].partition("${")[0].strip().strip("'")

    def run(self, *words: object, fails: bool | None = False) -> None:
        """Run a command of this package, of nnU-Net, or Python. Print its time and keep its output.

        Args:
            words: the command and its arguments.
            fails: whether the command must end with an error. None: it may end with an error or not.
        """
        start, self._number, texts = time.monotonic(), self._number + 1, list(map(str, words))
        command = [sys.executable, "-m", *texts] if texts[0] == "nnunet_moe" else texts
        with (self.logs / f"{self._number:02d}_{Path(texts[0]).name}_{texts[1][:20].strip()}.txt").open(
            "w", encoding="utf-8"
        ) as log:
            done = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, env=self._environment, cwd=self.folder, check=False
            )
        print(f"{time.monotonic() - start:6.1f} s  {' '.join(texts)[:100]!r}", flush=True)
        if fails is not None and (done.returncode != 0) != fails:
            raise SystemExit(f"The command ended with exit status {done.returncode}. Read its output: {log.name}")

    def moe(self, *words: object, fails: bool | None = False) -> None:
        self.run("nnunet_moe", *words, fails=fails)

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


def write(file: Path, array: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(file))


def draw_head(seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Draw three images of a ball with four lesions, and the lesions."""
    rng, shape = np.random.default_rng(seed), (28, 30, 26)
    axes = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij"))
    radius, lesions = np.sqrt((axes**2).sum(axis=0)), np.zeros(shape, np.uint8)
    for _ in range(4):
        center = rng.uniform(-0.5, 0.5, 3)[:, None, None, None]
        lesions |= (np.sqrt(((axes - center) ** 2).sum(axis=0)) < rng.uniform(0.15, 0.25)).astype(np.uint8)
    signals = ((100, 60), (140, 80), (180, -40))
    images = [tissue * (radius < 0.9) + lesion * lesions.astype(float) for tissue, lesion in signals]
    return [np.where(radius < 0.9, image + rng.normal(0, 8, shape), 0).astype(np.float32) for image in images], lesions


def write_types(raw: Path) -> None:
    """Write CT and MR cases with one channel each. Each image type has one of the two labels annotated."""
    for channel, image_type in enumerate(("ct", "mr")):
        for number in range(4):
            rng = np.random.default_rng([number, channel])
            image, labels = rng.normal(0, 0.1, (20, 22, 20)).astype(np.float32), np.zeros((20, 22, 20), np.uint8)
            for label, corner in ((1, (3, 4, 3)), (2, (11, 12, 11))):
                cube = tuple(slice(first, first + 6) for first in corner)
                image[cube] += 3 * label * (1 - 2 * channel)
                labels[cube] = label * (label == channel + 1)
            write(raw / "imagesTr" / f"{image_type}{number}_{channel:04d}.nii.gz", image)
            write(raw / "labelsTr" / f"{image_type}{number}.nii.gz", labels)
    described = {
        "channel_names": {"0": "CT", "1": "MR"},
        "labels": {"background": 0, "first": 1, "second": 2},
        "label_sets": {"CT": ["first"], "MR": ["second"]},
        "numTraining": 8,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(described), encoding="utf-8")


def add_configurations(folder: Folder) -> None:
    """Add configurations with small networks and short trainings to the plans."""
    file = folder / "nnUNet_preprocessed" / HEADS / "nnUNetPlans.json"
    plans = json.loads(file.read_text(encoding="utf-8"))
    architecture = copy.deepcopy(plans["configurations"]["3d_fullres"]["architecture"])
    architecture["arch_kwargs"] |= {
        "n_stages": 3,
        "features_per_stage": [4, 6, 8],
        "kernel_sizes": [[3] * 3] * 3,
        "strides": [[1] * 3, [2] * 3, [2] * 3],
        "n_conv_per_stage": [2] * 3,
        "n_conv_per_stage_decoder": [2] * 2,
    }
    small = {"inherits_from": "3d_fullres", "patch_size": [16] * 3, "architecture": architecture}
    plans["configurations"] |= {
        "3d_small": {**small, "nnunet_moe": LENGTH},
        "3d_four": {**small, "nnunet_moe": {**LENGTH, "num_epochs": 4}},
        "3d_odd": {**small, "nnunet_moe": {**LENGTH, **ODD}},
        "3d_t1fl": {"inherits_from": "3d_small", "nnunet_moe": {**LENGTH, "modality_code": [1, 0, 1]}},
    }
    file.write_text(json.dumps(plans, indent=4), encoding="utf-8")
    file = folder / "nnUNet_preprocessed" / TYPES / "nnUNetPlans.json"
    plans = json.loads(file.read_text(encoding="utf-8"))
    small = {"inherits_from": "2d", "patch_size": [32, 32], "batch_size": 4, "nnunet_moe": {**LENGTH, "width": 12}}
    plans["configurations"]["2d_small"] = small
    file.write_text(json.dumps(plans, indent=4), encoding="utf-8")


def make(folder: Folder) -> None:
    """Make data, plans, trainings, outputs of every verb, and unfinished runs."""
    source = folder / "source"
    for case in range(8):
        images, lesions = draw_head(case)
        for channel, name in enumerate(MODALITIES.values()):
            if (case, channel) not in LACKING:
                write(source / f"p{case}" / f"p{case}-{name}.nii.gz", images[channel])
        if case < 6:
            write(source / f"p{case}" / f"p{case}-seg.nii.gz", lesions)
    (source / "p0" / "note.nii.gz").write_bytes(b"no image")
    patterns = [word for name, end in MODALITIES.items() for word in ("-m", f"{name}={{case}}-{end}.nii.gz")]
    labels = ("-l", "{case}-seg.nii.gz", "-labels", "lesion=1", "--unlabelled_to_test")
    folder.moe("import", "-i", source, "-d", HEADS, *patterns, *labels, "-np", 1, "--no_pbar")
    write_types(folder / "nnUNet_raw" / TYPES)
    for dataset, more in ((911, ("2d", "3d_fullres", "--verify_dataset_integrity")), (912, ("2d",))):
        folder.moe("plan_and_preprocess", "-np", 1, "-npfp", 1, "--no_pbar", "-d", dataset, "-c", *more)
    add_configurations(folder)
    train(folder)
    write_inputs(folder)
    outputs(folder, "")
    begin(folder)


def train(folder: Folder) -> None:
    """Run all trainings, and one that stops halfway."""
    for dataset, configuration, fold, trainer in TRAININGS:
        folder.run("nnUNetv2_train", dataset, configuration, fold, "-tr", f"nnUNetTrainer{trainer}", "-device", "cpu")
    folder.run(sys.executable, "-c", STOPPED)


def write_inputs(folder: Folder) -> None:
    """Write incomplete and broken cases to predict, and held-out cases with labels."""
    test, incoming, good = folder / "nnUNet_raw" / HEADS / "imagesTs", folder / "incoming", folder / "good"
    incoming.mkdir()
    good.mkdir()
    for number in range(1, 8):
        for channel in range(3):
            if number >> channel & 1:
                shutil.copy(test / f"p6_{channel:04d}.nii.gz", incoming / f"a{number}_{channel:04d}.nii.gz")
    image = sitk.ReadImage(str(incoming / "a3_0000.nii.gz"))
    sitk.WriteImage(image * 0, str(incoming / "a4_0000.nii.gz"))
    shutil.copy(incoming / "a3_0000.nii.gz", incoming / "a6_0000.nii")
    for file in incoming.glob("a*_*.nii.gz"):
        shutil.copy2(file, good)
    (incoming / "bad_0000.nii.gz").write_bytes(b"bad")
    for number in (20, 21):
        images, lesions = draw_head(number)
        write(folder / "held" / "labels" / f"h{number}.nii.gz", lesions)
        for channel in range(3):
            if (number, channel) != (21, 1):
                write(folder / "held" / "images" / f"h{number}_{channel:04d}.nii.gz", images[channel])


def outputs(folder: Folder, prefix: str) -> None:
    """Make the outputs of every verb from the trained models."""
    quick, inline = ("-device", "cpu", "--disable_tta"), ("--disable_progress_bar", "-npp", 0, "-nps", 0)
    heads, types = ("-d", 911, "-c", "3d_small", "-f", 0), ("-d", 912, "-c", "2d_small", "-f", 0)
    moesd, dropout, lckd, m4oe = (f"nnUNetTrainer{name}" for name in ("MoESD", "ModalityDropout", "LCKD", "M4oE"))

    def out(name: str) -> tuple[str, Path]:
        return "-o", folder / f"{prefix}{name}"

    tested = ("-i", folder / "held" / "images", "-l", folder / "held" / "labels", "-codes", "T1w", "101", "111")
    folder.moe("evaluate", *heads, "-tr", moesd, dropout, lckd, "-device", "cpu", "--save_predictions", *out("scores"))
    folder.moe("evaluate", *heads, "-tr", moesd, "nnUNetTrainerDedicated", *tested, *quick, *out("held_scores"))
    folder.moe("evaluate", *types, "-tr", m4oe, f"{m4oe}NoGate", *quick, *out("types_scores"))
    incoming, scores = ("-i", folder / "incoming"), ("-scores", folder / f"{prefix}scores", "--save_probabilities")
    folds = ("-f", 0, 1, "-npp", 1, "-nps", 1, "--disable_progress_bar")
    folder.moe("predict", *incoming, *heads[:4], *folds, *scores, "-tr", moesd, *out("moesd"), fails=True)
    required = ("--require", "FLAIR", *quick, *inline)
    folder.moe("predict", *incoming, *heads, *required, "-tr", lckd, *out("lckd"), fails=True)
    dedicated = ("-d", 911, "-c", "3d_t1fl", "-f", 0, "-tr", "nnUNetTrainerDedicated")
    folder.moe("predict", *incoming, *dedicated, *quick, *inline, *out("dedicated"), fails=True)
    of_types = ("-i", folder / "nnUNet_raw" / TYPES / "imagesTr", "-tr", m4oe)
    folder.moe("predict", *of_types, *types, *quick, *inline, *out("types"))
    for trainer in (moesd, lckd):
        stock = ("-i", folder / "good", "-npp", 1, "-nps", 1, *quick, *out(f"nnunet_{trainer}"))
        folder.run("nnUNetv2_predict", *heads, "-tr", trainer, *stock)
    folder.moe("export", *heads[:4], "-f", 0, 1, "-tr", moesd, "-m", "T1w+FLAIR", "--onnx", *out("exported"))
    folder.moe("export", *heads, "-tr", moesd, "--all", *scores[:2], *out("exported_all"))
    folder.moe("export", *heads, "-tr", "nnUNetTrainerDynamicStem", "-m", "110", *out("exported_stem"))
    folder.moe("export", *types, "-tr", m4oe, "-m", "MR", "--onnx", *out("exported_types"))
    model = folder / "nnUNet_results" / HEADS / f"{dropout}__nnUNetPlans__3d_small"
    upcycle = ("upcycle", "-i", model / "fold_0" / "checkpoint_final.pth")
    folder.moe(*upcycle, "-tr", moesd, *out("upcycled.pth"))
    folder.moe(*upcycle, "-tr", lckd, *out("not_upcycled.pth"), fails=True)
    for target in ("plain", "brats", "grand-challenge", "fomo"):
        folder.moe("package", *heads, "-tr", moesd, "--target", target, *quick, *out(f"package_{target}"))
    folder.moe("package", *heads, "-tr", lckd, "--target", "plain", *quick, *out("package_lckd"))
    folder.moe("package", *types, "-tr", m4oe, "--target", "plain", *quick, *out("package_types"))
    program, given = folder / f"{prefix}package_plain" / "predict.py", ("--input", folder / "good", "--device", "cpu")
    folder.run(sys.executable, program, *given, "--output", folder / f"{prefix}packaged")


def begin(folder: Folder) -> None:
    """Begin a prediction, an evaluation and a study that another version resumes."""
    (folder / "begun_images").mkdir()
    for file in (folder / "incoming").glob("a[123]_*"):
        shutil.copy2(file, folder / "begun_images")
    go_on(folder, codes=("-codes", "T1w"))


def go_on(folder: Folder, *, codes: Sequence[str] = (), more: Sequence[str] = (), study: str = "") -> None:
    model, quick = ("-d", 911, "-c", "3d_small", "-f", 0, "-tr", "nnUNetTrainerMoESD"), ("-device", "cpu")
    images = ("-i", folder / "begun_images", "-npp", 0, "-nps", 0, "--disable_progress_bar")
    folder.moe("predict", *model, *images, *quick, "-o", folder / "begun_prediction", *more)
    scored = ("nnUNetTrainerLCKD", *quick, "--disable_tta", "--save_predictions", *codes)
    folder.moe("evaluate", *model, *scored, "-o", folder / "begun_scores")
    (folder / "begun.yaml").write_text(STUDY % study, encoding="utf-8")
    folder.moe("study", folder / "begun.yaml", "-o", folder / "begun_study", *quick, "-jobs", 1)


def resume(folder: Folder) -> None:
    """Resume all unfinished runs, and repeat all outputs of the trained models."""
    folder.run("nnUNetv2_train", 911, "3d_four", 0, "-tr", "nnUNetTrainerMoESD", "-device", "cpu", "--c")
    for file in (folder / "incoming").glob("a[4567]_*"):
        shutil.copy2(file, folder / "begun_images")
    go_on(folder, more=("--continue_prediction",), study="  - {trainer: nnUNetTrainerMoESD, seeds: [0]}\n")
    outputs(folder, "again_")


def compare(first: Path, second: Path) -> int:
    """Print the files that differ and the counts by file ending, and return the number of differences."""
    found: list[dict[str, Path]] = [
        {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file() and not path.is_symlink()}
        for root in (first, second)
    ]
    counts, equal, differences = Counter[str](), Counter[str](), 0
    for name in sorted(name for name in found[0].keys() | found[1].keys() if not PASSED_OVER.search(name)):
        if _are_copies(*(files.get(name) for files in found)):
            continue
        ending = Path(name).suffix
        counts[ending] += 1
        difference = _difference(*(files.get(name) for files in found))
        if difference is None:
            equal[ending] += 1
        else:
            differences += 1
            print(f"{name}: {difference}")
    for ending, count in sorted(counts.items()):
        print(f"{ending or 'no ending':10} {equal[ending]:5} of {count} equal")
    return differences


def _are_copies(first: Path | None, second: Path | None) -> bool:
    """Return whether two files are copies of one file, made by `cp -a`, that neither version has changed since."""
    if first is None or second is None:
        return False
    return first.stat().st_mtime_ns == second.stat().st_mtime_ns


def _difference(first: Path | None, second: Path | None) -> str | None:
    """Describe the difference of two files, apart from times and digests; None if there is none."""
    if first is None or second is None:
        return "only in the second folder" if first is None else "only in the first folder"
    if first.suffix == ".png" or first.read_bytes() == second.read_bytes():
        return None
    if first.suffix in (".pth", ".npz", ".pkl"):
        return _differing(*map(_content, (first, second)))
    lines = [_masked(file).splitlines() for file in (first, second)]
    pairs = ((a, b) for a, b in zip(*lines, strict=False) if a != b)
    first_pair = next(pairs, None)
    if first_pair is None:
        return None if len(lines[0]) == len(lines[1]) else f"{len(lines[0])} and {len(lines[1])} lines"
    return f"{first_pair[0][:120]!r} and {first_pair[1][:120]!r}"


def _content(file: Path) -> Any:
    if file.suffix == ".pth":
        return torch.load(file, map_location="cpu", weights_only=False)
    if file.suffix == ".pkl":
        return pickle.loads(file.read_bytes())
    with np.load(file, allow_pickle=True) as arrays:
        content = {name: arrays[name] for name in arrays if name != "key"}
    if "content" in content:  # a record, which has the time at which a segmentation was kept
        content["content"] = {**json.loads(str(content["content"])), "kept": None}
    return content


def _differing(first: Any, second: Any, where: str = "") -> str | None:
    """Describe the first place where two nested contents differ; None if they are equal."""
    if isinstance(first, (dict, list, tuple)):
        pairs = first.items() if isinstance(first, dict) else enumerate(first)
        if type(first) is not type(second) or len(first) != len(second):
            return f"{where} has another size"
        within = (_differing(value, second[key], f"{where}.{key}") for key, value in pairs if key not in TIMES)
        return next(filter(None, within), None)
    if isinstance(first, (torch.Tensor, np.ndarray)):
        is_same = np.array_equal(first, second, equal_nan=np.asarray(first).dtype.kind == "f")
    else:
        is_same = first == second or first != first
    return None if is_same else f"{where}: {str(first)[:80]} and {str(second)[:80]}"


def _masked(file: Path) -> str:
    """Read a text without seconds, digests and pictures."""
    text = file.read_text(errors="replace", encoding="utf-8")
    if file.suffix == ".csv":
        rows = [*csv.DictReader(io.StringIO(text))]
        text = "\n".join(str({**row, "seconds": ""}) for row in rows)
    text = re.sub(r"\b[0-9a-f]{64}\b", "DIGEST", text)
    text = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "PICTURE", text)
    return re.sub(r"\d+\.\d s\b", "SECONDS", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("make", "train", "resume", "compare"), help="run this step")
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="FOLDER", help="use this folder; give two folders to compare"
    )
    options = parser.parse_args()
    if options.what == "compare":
        differences = compare(*options.folders)
        sys.exit(f"{differences} files differ" if differences else 0)
    {"make": make, "train": train, "resume": resume}[options.what](Folder(options.folders[0], options.what))


if __name__ == "__main__":
    main()
