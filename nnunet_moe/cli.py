"""The command `nnunet_moe`, with nnU-Net's own option names."""

import argparse
import importlib.util
import io
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_moe.environment import export_line
from nnunet_moe.errors import NnunetMoeError, SettingsError
from nnunet_moe.submission import TARGETS


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb; a user's error is one message on stderr and exit status 1."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of cases may be in any language, the terminal in none
        sys.stdout.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    own = given[: given.index("--")] if given[:1] == ["study"] and "--" in given else given
    options = _parser().parse_args(own, argparse.Namespace(more=given[len(own) + 1 :]))
    try:
        options.run(options)
    except (NnunetMoeError, OSError) as error:
        sys.exit(f"nnunet_moe {options.verb}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"nnunet_moe {options.verb}: interrupted")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nnunet_moe", description="nnU-Net with any subset of the modalities.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    env = verbs.add_parser("env", help="print the line that makes nnU-Net find the trainers")
    env.add_argument("--shell", choices=("bash", "fish"), help="print only this shell's line (default: both)")
    env.set_defaults(run=_env)

    demo = verbs.add_parser("demo", help="train and predict a small phantom cohort from start to end")
    demo.add_argument("-o", type=Path, default=Path("nnunet_moe_demo"), help="output folder (default: %(default)s)")
    demo.add_argument("-device", choices=("cpu", "cuda", "mps"), help="default: cuda where there is one, else cpu")
    demo.set_defaults(run=_demo)

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
    upcycle.set_defaults(run=_upcycle)

    _add_predict(verbs)
    _add_evaluate(verbs)
    _add_export(verbs)
    _add_package(verbs)
    _add_study(verbs)
    return parser


def _add_import(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
    importing.set_defaults(run=_import)


def _add_plan_and_preprocess(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
    plan.set_defaults(run=_plan_and_preprocess)


def _add_predict(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    predict = verbs.add_parser("predict", help="nnU-Net's command, for folders in which some cases cannot be predicted")
    add = predict.add_argument
    add("-i", type=Path, required=True, help="folder of images; any file of a case may be missing")
    add("-o", type=Path, required=True, help="output folder")
    add("-d", required=True, help="dataset, name or id")
    add("-c", required=True, help="configuration")
    add("-tr", required=True, help="trainer")
    add("-p", default="nnUNetPlans", help="plans (default: %(default)s)")
    add("-f", nargs="+", default=("0", "1", "2", "3", "4"), help="folds (default: 0 to 4)")
    add("-chk", default="checkpoint_final.pth", help="checkpoint (default: %(default)s)")
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
    predict.set_defaults(run=_predict)


def _add_evaluate(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
    evaluate.set_defaults(run=_evaluate)


def _add_export(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    export = verbs.add_parser("export", help="write a trained model as an ordinary nnU-Net for fixed modalities")
    add = export.add_argument
    add("-d", required=True, help="dataset, name or id")
    add("-c", required=True, help="configuration")
    add("-tr", required=True, help="trainer")
    add("-f", nargs="+", default=("0", "1", "2", "3", "4"), help="folds (default: 0 to 4)")
    add("-p", default="nnUNetPlans", help="plans (default: %(default)s)")
    add("-chk", default="checkpoint_final.pth", help="checkpoint (default: %(default)s)")
    which = export.add_mutually_exclusive_group(required=True)
    which.add_argument("-m", metavar="CODE", help="the modalities, e.g. T1w+FLAIR, or digits, 101")
    which.add_argument("--all", action="store_true", help="every subset, each in a folder of its own below -o")
    add("-o", type=Path, required=True, help="the model folder to write; it must not exist or be empty")
    add("-scores", type=Path, help="output folder of `nnunet_moe evaluate`: its scores go into the model card")
    add("--onnx", action="store_true", help="write each fold's network as ONNX too")
    export.set_defaults(run=_export)


def _add_package(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    package = verbs.add_parser("package", help="write a folder to build a container of a trained model from")
    add = package.add_argument
    add("-d", required=True, help="dataset, name or id")
    add("-c", required=True, help="configuration")
    add("-tr", required=True, help="trainer")
    add("-f", nargs="+", default=("0", "1", "2", "3", "4"), help="folds, an ensemble (default: 0 to 4)")
    add("-p", default="nnUNetPlans", help="plans (default: %(default)s)")
    add("-chk", default="checkpoint_final.pth", help="checkpoint (default: %(default)s)")
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
    package.set_defaults(run=_package)


def _add_study(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
    study.set_defaults(run=_study)


def _env(options: argparse.Namespace) -> None:
    if options.shell is not None:
        print(export_line(options.shell))
    else:
        print(export_line("bash"))  # first, so that it counts also when a shell joins the lines
        print('# bash, zsh: eval "$(nnunet_moe env)"      fish: nnunet_moe env --shell fish | source')
        print(f"# {export_line('fish')}")


def _demo(options: argparse.Namespace) -> None:
    from nnunet_moe.demo import run_demo

    run_demo(options.o, _device(options.device))


def _import(options: argparse.Namespace) -> None:
    from nnunet_moe.importing.dataset import Request, import_dataset

    if len(modalities := dict(options.m)) < len(options.m):
        raise SettingsError(f"-m names a modality twice: {', '.join(name for name, _ in options.m)}.")
    request = Request(
        source=options.i,
        dataset=options.d,
        modalities=modalities,
        label=options.l,
        labels=None if options.labels is None else {name: _whole(name, value) for name, value in options.labels},
        file_ending=options.ending,
        link=options.link,
        unlabelled_to_test=options.unlabelled_to_test,
        filled_as_absent=options.filled_as_absent,
        originals=tuple(options.original),
        num_processes=options.np,
        show_progress=not options.no_pbar,
    )
    imported = import_dataset(request)
    num_test = 0 if imported.test is None else len(imported.test.codes)
    print(f"Wrote {imported.folder}: {len(imported.training.codes)} training and {num_test} test cases")
    print(imported.training.table())
    for problems, what in ((imported.filled, _FILLED[request.filled_as_absent]), (imported.not_placed, "Not placed")):
        if problems:
            print(f"{what}, {len(problems)} files; all of them in {imported.report}:")
            print("\n".join(f"  {problem.file}: {problem.reason}" for problem in problems[:10]))
    print(f"Go on with: nnunet_moe plan_and_preprocess -d {request.dataset} --verify_dataset_integrity")


_FILLED = {True: "Treated as absent", False: "Suspect, but placed (see --filled_as_absent)"}


def _plan_and_preprocess(options: argparse.Namespace) -> None:
    from nnunet_moe.planning.plan_and_preprocess import Request, plan_and_preprocess

    request = Request(
        datasets=tuple(options.d),
        configurations=tuple(options.c),
        planner=options.pl,
        gpu_memory_target=options.gpu_memory_target,
        target_spacing=None if options.overwrite_target_spacing is None else tuple(options.overwrite_target_spacing),
        plans_name=options.overwrite_plans_name,
        num_processes=None if options.np is None else tuple(options.np),
        fingerprint_processes=options.npfp,
        verify=options.verify_dataset_integrity,
        clean=options.clean,
        preprocess=not options.no_pp,
        verbose=options.verbose,
        show_progress=not options.no_pbar,
    )
    plan_and_preprocess(request)


def _predict(options: argparse.Namespace) -> None:
    from nnunet_moe.cohort.case import Requirement
    from nnunet_moe.cohort.predict import Request, predict_cohort

    request = Request(
        images=options.i,
        out=options.o,
        dataset=options.d,
        configuration=options.c,
        trainer=options.tr,
        folds=tuple(_fold(text) for text in options.f),
        plans=options.p,
        checkpoint=options.chk,
        requirement=Requirement(options.min_modalities, tuple(options.require)),
        scores=options.scores,
        step_size=options.step_size,
        mirroring=not options.disable_tta,
        save_probabilities=options.save_probabilities,
        continue_prediction=options.continue_prediction,
        preprocessing_processes=options.npp,
        export_processes=options.nps,
        previous_stage=options.prev_stage_predictions,
        num_parts=options.num_parts,
        part_id=options.part_id,
        device=_device(options.device),
        on_device=not options.not_on_device,
        verbose=options.verbose,
        show_progress=not options.disable_progress_bar,
    )
    outcome = predict_cohort(request)
    print(f"Predicted {len(outcome.predicted)} cases into {request.out}")
    if outcome.failures:
        listed = "\n".join(f"  {failure.case}: {failure.reason}" for failure in outcome.failures)
        sys.exit(f"Not predicted are {len(outcome.failures)} ({outcome.failures_file}):\n{listed}")


def _upcycle(options: argparse.Namespace) -> None:
    from nnunet_moe.upcycle import upcycle_checkpoint

    target = upcycle_checkpoint(
        options.i,
        options.o,
        options.tr,
        dataset=options.d,
        plans=options.p,
        configuration=options.c,
        noise=options.noise,
        seed=options.seed,
        like=options.like,
    )
    model = f"{target.dataset} {target.configuration} FOLD -tr {target.trainer} -p {target.plans}"
    file = shlex.quote(str(options.o))
    print(f"Wrote {options.o}. Start from it: nnUNetv2_train {model} -pretrained_weights {file}")


def _evaluate(options: argparse.Namespace) -> None:
    from nnunet_moe.evaluation.evaluate import Request, score_models
    from nnunet_moe.evaluation.metrics import MetricSettings
    from nnunet_moe.evaluation.report import write_evaluation
    from nnunet_moe.evaluation.segmenter import PredictionSettings
    from nnunet_moe.evaluation.tables import code_table

    request = Request(
        dataset=options.d,
        configuration=options.c,
        trainers=tuple(options.tr),
        out=options.o,
        folds=tuple(_fold(text) for text in options.f),
        plans=options.p,
        images=options.i,
        labels=options.l,
        codes=None if options.codes is None else tuple(options.codes),
        num_codes=options.num_codes,
        checkpoint=options.chk,
        save_predictions=options.save_predictions,
        metrics=MetricSettings(options.connectivity, options.min_lesion, options.tolerance),
        prediction=PredictionSettings(options.step_size, not options.disable_tta, _device(options.device)),
    )
    evaluation = score_models(request)
    report = write_evaluation(evaluation, request)
    results = evaluation.results
    print(code_table(results, results.shown_labels[0]).markdown())
    print(f"Report: {report}")
    if num_failed := len(results.failures):
        sys.exit(f"Failed segmentations: {num_failed}. The report tells which and why. Repair, and run it again.")


def _export(options: argparse.Namespace) -> None:
    from nnunet_moe.export.export import Request, export_models

    request = Request(
        dataset=options.d,
        configuration=options.c,
        trainer=options.tr,
        out=options.o,
        modalities=None if options.all else options.m,
        folds=tuple(_fold(text) for text in options.f),
        plans=options.p,
        checkpoint=options.chk,
        scores=options.scores,
        onnx=options.onnx,
    )
    for folder in export_models(request):
        print(f"Wrote {folder}; its channels are numbered as README.md in it says")


def _package(options: argparse.Namespace) -> None:
    from nnunet_moe.submission.package import Request, package_model

    inputs = options.inputs
    if inputs is not None and len(dict(inputs)) < len(inputs):
        raise SettingsError(f"-inputs names one twice: {', '.join(name for name, _ in inputs)}.")
    request = Request(
        dataset=options.d,
        configuration=options.c,
        trainer=options.tr,
        out=options.o,
        target=options.target,
        folds=tuple(_fold(text) for text in options.f),
        plans=options.p,
        checkpoint=options.chk,
        modalities=options.m,
        inputs=None if inputs is None else dict(inputs),
        output=options.output,
        step_size=options.step_size,
        mirroring=not options.disable_tta,
        device=_device(options.device),
    )
    packaged = package_model(request)
    print(f"Wrote {request.out}, for {packaged.takes}:")
    for name, modality in packaged.mapping.inputs.items():
        print(f"  {name}: {modality or 'known, not used'}")
    if not packaged.knows_training:
        print("WARNING: which subsets the training cases had is not known; the container will not warn of others")
    print("\n".join(packaged.said))
    if packaged.mapping.target == "grand-challenge":
        print(f"The segmentation goes to /output/{packaged.mapping.output_file}; -output names another socket")
    print(f"Go on with: {shlex.quote(str(request.out.resolve() / 'test.sh'))}")


def _study(options: argparse.Namespace) -> None:
    if importlib.util.find_spec("yaml") is None:
        raise SettingsError("A study needs Snakemake and PyYAML: pip install 'nnunet-moe[study]'")
    from nnunet_moe.study.models import write_plans
    from nnunet_moe.study.plan import make_plan
    from nnunet_moe.study.report import write_report
    from nnunet_moe.study.run import JobsFailedError, Machine, require_runnable, run_plan

    if options.jobs is not None and options.jobs < 1:
        raise SettingsError(f"-jobs is {options.jobs}; it must be at least 1.")
    # where a job is sent off from has often no GPU itself
    device = options.device or ("cuda" if options.profile is not None else _device(None))
    machine = Machine(device, options.jobs, options.profile, tuple(options.more))
    plan = make_plan(options.file, options.o.resolve(), device)
    if options.dry_run:
        require_runnable(plan, machine)
        print(plan.describe(machine.jobs_at_a_time))
        done = plan.done()
        for job in [job for name, job in plan.jobs.items() if name not in done]:
            print(shlex.join(job.command))
    elif options.only == "plans":
        print(f"Wrote {write_plans(plan.study, plan.trained)}")
    elif options.only == "report":
        print(f"Report: {write_report(plan)}")
    else:
        try:
            run_plan(plan, machine)
        except JobsFailedError as failure:  # a report of what is there all the same
            try:
                report = f"Report: {write_report(plan)}"
            except NnunetMoeError as error:
                report = str(error)
            raise JobsFailedError(f"{failure}\n{report}") from failure
        print(f"Report: {write_report(plan)}")


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


def _whole(name: str, value: str) -> int:
    if not value.isdecimal():
        raise SettingsError(f"-labels {name}={value}: a label is a whole number from 1.")
    return int(value)


def _device(name: str | None) -> str:
    import torch

    return name or ("cuda" if torch.cuda.is_available() else "cpu")


def _fold(text: str) -> int | str:
    if text != "all" and not text.isdecimal():
        raise SettingsError(f"-f {text}: a fold is a number from 0, or 'all'.")
    return text if text == "all" else int(text)
