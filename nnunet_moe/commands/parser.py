"""The options of the command `nnunet_moe`, named as nnU-Net's own."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from nnunet_moe.commands.package import TARGETS

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def make_parser() -> argparse.ArgumentParser:
    """The parser of all verbs; `verb` tells which it was."""
    parser = argparse.ArgumentParser(prog="nnunet_moe", description="nnU-Net with any subset of the modalities.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    env = verbs.add_parser("env", help="print the line that makes nnU-Net find the trainers")
    env.add_argument("--shell", choices=("bash", "fish"), help="print only this shell's line (default: both)")

    demo = verbs.add_parser("demo", help="train and predict a small phantom cohort from start to end")
    demo.add_argument("-o", type=Path, default=Path("nnunet_moe_demo"), help="output folder (default: %(default)s)")
    demo.add_argument("-device", choices=("cpu", "cuda", "mps"), help="default: cuda where there is one, else cpu")

    _add_import(verbs)
    _add_plan_and_preprocess(verbs)

    upcycle = verbs.add_parser(
        "upcycle", help="make a checkpoint a start for training with experts that it has not (-pretrained_weights)"
    )
    upcycle.add_argument("-i", type=Path, required=True, help="the checkpoint of an ordinary nnU-Net, or of M4oE")
    upcycle.add_argument("-o", type=Path, required=True, help="the file to write")
    upcycle.add_argument("-tr", required=True, help="the trainer that will start from it, e.g. nnUNetTrainerMoESD")
    upcycle.add_argument("-d", help="dataset to train on, name or id (default: the checkpoint's)")
    upcycle.add_argument("-c", help="configuration to train (default: the checkpoint's)")
    upcycle.add_argument("-p", help="its plans (default: the checkpoint's)")
    upcycle.add_argument(
        "-noise",
        type=float,
        default=0.01,
        help="SD of the experts' noise over the SD of the weights (default: %(default)s)",
    )
    upcycle.add_argument(
        "-like", metavar="KIND", help="of M4oE: whose experts new kinds start with (default: the mean of all)"
    )
    upcycle.add_argument("-seed", type=int, default=0, help="of noise and gates (default: %(default)s)")

    _add_predict(verbs)
    _add_evaluate(verbs)
    _add_export(verbs)
    _add_package(verbs)
    _add_study(verbs)
    return parser


def _add_import(verbs: Verbs) -> None:
    importing = verbs.add_parser("import", help="make a raw dataset of a folder in another layout")
    add = importing.add_argument
    add("-i", type=Path, required=True, help="folder; it is searched with all folders below it")
    add("-d", required=True, help="the dataset to make in nnUNet_raw, DatasetXXX_NAME")
    add(
        "-m",
        required=True,
        action="append",
        type=_named,
        metavar="NAME=PATTERN",
        help="a modality and the pattern of its files, FLAIR='{case}-t2f.nii.gz'; once for each, in channel order",
    )
    add("-l", required=True, metavar="PATTERN", help="the pattern of the segmentations, e.g. '{case}-seg.nii.gz'")
    add("-labels", nargs="+", type=_named, metavar="NAME=VALUE", help="default: label_1 and so on")
    add("-ending", help="file ending, e.g. .nii.gz (default: the one that all files have)")
    add("--link", action="store_true", help="link the files instead of copying them")
    add("--unlabelled_to_test", action="store_true", help="cases without segmentation go to imagesTs")
    add("--filled_as_absent", action="store_true", help="leave out files that hold one value, or another one's voxels")
    add("-original", nargs="+", default=(), metavar="NAME", help="the original of equal ones (default: first channel)")
    add("-np", type=int, default=8, help="processes that read (default: %(default)s)")
    add("--no_pbar", action="store_true", help="no progress bar")


def _add_plan_and_preprocess(verbs: Verbs) -> None:
    plan = verbs.add_parser("plan_and_preprocess", help="nnU-Net's command, for training cases with files missing")
    add = plan.add_argument
    add("-d", required=True, nargs="+", help="datasets, names or ids")
    add("-c", nargs="+", default=("2d", "3d_fullres", "3d_lowres"), help="configurations (default: %(default)s)")
    add("-pl", default="ExperimentPlanner", help="planner (default: %(default)s)")
    add("-gpu_memory_target", type=float, help="GB of GPU memory to plan for (default: the planner's)")
    add("-overwrite_target_spacing", type=float, nargs="+", metavar="MM", help="of 3d_fullres, three numbers")
    add("-overwrite_plans_name", help="plans identifier (default: the planner's)")
    add("-np", type=int, nargs="+", help="processes that preprocess; one number, or one a configuration")
    add("-npfp", type=int, default=8, help="processes that extract the fingerprint (default: %(default)s)")
    add("--verify_dataset_integrity", action="store_true", help="check all cases first; recommended once a dataset")
    add("--clean", action="store_true", help="make the fingerprint anew; needed when files changed")
    add("--no_pp", action="store_true", help="do not preprocess")
    add("-fpe", choices=("DatasetFingerprintExtractor",), help="nnU-Net's own alone can be followed")
    add("-preprocessor_name", choices=("DefaultPreprocessor",), help="nnU-Net's own alone can be followed")
    add("--verbose", action="store_true")
    add("--no_pbar", action="store_true", help="no progress bars")


def _add_predict(verbs: Verbs) -> None:
    predict = verbs.add_parser("predict", help="nnU-Net's command, for folders in which some cases cannot be predicted")
    add = predict.add_argument
    add("-i", type=Path, required=True, help="folder of images; any file of a case may be missing")
    add("-o", type=Path, required=True, help="output folder")
    _add_model(add)
    add("--require", nargs="+", default=(), metavar="MODALITY", help="cases without these are failures")
    add("--min_modalities", type=int, default=1, help="cases with fewer are failures (default: %(default)s)")
    add("-scores", type=Path, help="output folder of `nnunet_moe evaluate`: the manifest tells what to expect")
    add("-step_size", type=float, default=0.5, help="of the sliding window (default: %(default)s)")
    add("--disable_tta", action="store_true", help="no mirroring: faster, less accurate")
    add("--save_probabilities", action="store_true", help="write probabilities, too")
    add("--continue_prediction", action="store_true", help="go on with what an earlier run left")
    npp, nps = (os.environ.get(f"nnUNet_{name}", "3") for name in ("npp", "nps"))  # read as if typed
    add("-npp", type=int, default=npp, help="processes that preprocess; 0 for none (default: %(default)s)")
    add("-nps", type=int, default=nps, help="processes that write; 0 for none (default: %(default)s)")
    add("-prev_stage_predictions", type=Path, help="segmentations of a cascade's previous stage")
    add("-num_parts", type=int, default=1, help="of how many commands, that share the cases (default: %(default)s)")
    add("-part_id", type=int, default=0, help="this is which, from 0 (default: %(default)s)")
    add("-device", choices=("cpu", "cuda", "mps"), help="default: cuda where there is one, else cpu")
    add("--not_on_device", action="store_true", help="keep whole images off the GPU")
    add("--verbose", action="store_true")
    add("--disable_progress_bar", action="store_true")


def _add_evaluate(verbs: Verbs) -> None:
    evaluate = verbs.add_parser("evaluate", help="score trained models under every subset of the modalities")
    add = evaluate.add_argument
    add("-d", required=True, help="dataset, name or id")
    add("-c", required=True, help="configuration; dedicated models of configurations that inherit from it count too")
    add("-tr", required=True, nargs="+", help="one or more trainers, compared in pairs, first minus second")
    add(
        "-f",
        nargs="+",
        default=("0", "1", "2", "3", "4"),
        help="folds: their validation cases are scored (default: 0 to 4)",
    )
    add("-p", default="nnUNetPlans", help="plans (default: %(default)s)")
    add("-o", type=Path, required=True, help="output folder; the same command goes on with what is there")
    add("-i", type=Path, help="score these images instead, by the ensemble of the folds; files may be missing")
    add("-l", type=Path, help="labels of the images of -i")
    add("-codes", nargs="+", metavar="CODE", help="only these subsets, as T1w T1w+FLAIR (default: what cases have)")
    add("-num_codes", type=int, help="only so many, drawn at random, the largest one among them")
    add("-chk", default="checkpoint_final.pth", help="checkpoint (default: %(default)s)")
    add("-connectivity", type=int, choices=(6, 18, 26), default=26, help="of lesions (default: %(default)s)")
    add("-min_lesion", type=float, default=0.0, help="smallest lesion counted, mm3 (default: %(default)s)")
    add("-tolerance", type=float, default=1.0, help="of the surface Dice, mm (default: %(default)s)")
    add("-step_size", type=float, default=0.5, help="of the sliding window (default: %(default)s)")
    add("--disable_tta", action="store_true", help="no mirroring: faster, less accurate")
    add("--save_predictions", action="store_true", help="keep the segmentations, in predictions/TRAINER/CODE")
    add("-device", choices=("cpu", "cuda", "mps"), help="default: cuda where there is one, else cpu")


def _add_export(verbs: Verbs) -> None:
    export = verbs.add_parser("export", help="write a trained model as an ordinary nnU-Net for fixed modalities")
    add = export.add_argument
    _add_model(add)
    which = export.add_mutually_exclusive_group(required=True)
    which.add_argument("-m", metavar="CODE", help="the modalities, e.g. T1w+FLAIR, or digits, 101")
    which.add_argument("--all", action="store_true", help="every subset, each in a folder of its own below -o")
    add("-o", type=Path, required=True, help="the model folder to write; it must not exist or be empty")
    add("-scores", type=Path, help="output folder of `nnunet_moe evaluate`: its scores go into the model card")
    add("--onnx", action="store_true", help="write each fold's network as ONNX too")


def _add_package(verbs: Verbs) -> None:
    package = verbs.add_parser("package", help="write a folder to build a container of a trained model from")
    add = package.add_argument
    _add_model(add)
    add("-o", type=Path, required=True, help="folder to write, the image gets its name; it must not exist or be empty")
    add(
        "--target",
        required=True,
        choices=TARGETS,
        help="whose contract to follow",
    )
    add(
        "-m",
        metavar="CODE",
        help="export these modalities as an ordinary nnU-Net, and take cases that have all of them",
    )
    add(
        "-inputs",
        nargs="+",
        type=_input,
        metavar="NAME=MODALITY",
        help="socket, suffix (brats: t1c for -t1c) or flag of each modality; NAME= is sent and not used "
        "(default: by the modalities' names)",
    )
    add("-output", help="output socket's slug or path, or ending of the segmentations' files (default: the contract's)")
    add("-step_size", type=float, default=0.5, help="of the sliding window (default: %(default)s)")
    add("--disable_tta", action="store_true", help="no mirroring: faster, less accurate")
    add("-device", choices=("cpu", "cuda", "mps"), help="for the sample case now; default: cuda where there is one")


def _add_study(verbs: Verbs) -> None:
    study = verbs.add_parser(
        "study",
        help="train and compare several trainers over seeds and folds, by Snakemake",
        epilog="What stands after -- goes to Snakemake.",
    )
    add = study.add_argument
    add("file", type=Path, metavar="FILE", help="YAML file that defines the study")
    add("-o", type=Path, required=True, help="output folder; the same command goes on with what is there")
    add("-n", "--dry_run", action="store_true", help="only tell how many jobs there are and how long they will take")
    add("-device", choices=("cpu", "cuda", "mps"), help="default: cuda where there is one, else cpu")
    add("-jobs", type=int, help="at a time on this machine (default: as many as fit its GPUs, or one)")
    add("--profile", help="Snakemake's, to run on a cluster: slurm, which comes with the package, or a folder")
    add("--only", choices=("plans", "report"), help="do just this now, without Snakemake")


def _add_model(add: Callable[..., Any]) -> None:
    """Options that name one trained model, as in `nnUNetv2_predict`."""
    add("-d", required=True, help="dataset, name or id")
    add("-c", required=True, help="configuration")
    add("-tr", required=True, help="trainer")
    add("-p", default="nnUNetPlans", help="plans (default: %(default)s)")
    add("-f", nargs="+", default=("0", "1", "2", "3", "4"), help="folds, an ensemble (default: 0 to 4)")
    add("-chk", default="checkpoint_final.pth", help="checkpoint (default: %(default)s)")


def _named(text: str) -> tuple[str, str]:
    """`NAME=VALUE`, for argparse, which says what is wrong with any other text."""
    name, separator, value = text.partition("=")
    if not (name.strip() and separator and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=...")
    return name, value


def _input(text: str) -> tuple[str, str | None]:
    """`NAME=MODALITY`, or `NAME=` for what is not used."""
    name, separator, modality = text.partition("=")
    if not (name.strip() and separator):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=MODALITY or NAME=")
    return name, modality or None
