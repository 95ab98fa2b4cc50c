"""The command `nnunet_moe`, with nnU-Net's own option names."""

import argparse
import importlib.util
import io
import shlex
import sys
from collections.abc import Callable, Sequence

from nnunet_moe.commands.parser import make_parser
from nnunet_moe.errors import NnunetMoeError, SettingsError
from nnunet_moe.runtime.environment import export_line


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb; a user's error is one message on stderr and exit status 1."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of cases may be in any language, the terminal in none
        sys.stdout.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    own = given[: given.index("--")] if given[:1] == ["study"] and "--" in given else given
    options = make_parser().parse_args(own, argparse.Namespace(more=given[len(own) + 1 :]))
    try:
        _VERBS[options.verb](options)
    except (NnunetMoeError, OSError) as error:
        sys.exit(f"nnunet_moe {options.verb}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"nnunet_moe {options.verb}: interrupted")


def _env(options: argparse.Namespace) -> None:
    if options.shell is not None:
        print(export_line(options.shell))
    else:
        print(export_line("bash"))  # first, so that it counts also when a shell joins the lines
        print('# bash, zsh: eval "$(nnunet_moe env)"      fish: nnunet_moe env --shell fish | source')
        print(f"# {export_line('fish')}")


def _demo(options: argparse.Namespace) -> None:
    from nnunet_moe.commands.demo.demo import run_demo

    run_demo(options.o, _device(options.device))


def _import(options: argparse.Namespace) -> None:
    from nnunet_moe.commands.import_dataset.dataset import Request, import_dataset

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
    from nnunet_moe.commands.plan_and_preprocess.plan_and_preprocess import Request, plan_and_preprocess

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
    from nnunet_moe.commands.predict.predict import Request, predict_cohort
    from nnunet_moe.models.inference import Requirement

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
    from nnunet_moe.commands.upcycle.upcycle import upcycle_checkpoint

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
    from nnunet_moe.commands.evaluate.evaluate import Request, score_models
    from nnunet_moe.commands.evaluate.metrics import MetricSettings
    from nnunet_moe.commands.evaluate.report import write_evaluation
    from nnunet_moe.commands.evaluate.tables import code_table
    from nnunet_moe.models.segmenter import PredictionSettings

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
    from nnunet_moe.commands.export.export import Request, export_models

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
    from nnunet_moe.commands.package.package import Request, package_model

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
    from nnunet_moe.commands.study.models import write_plans
    from nnunet_moe.commands.study.plan import make_plan
    from nnunet_moe.commands.study.report import write_report
    from nnunet_moe.commands.study.run import JobsFailedError, Machine, require_runnable, run_plan

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


_VERBS: dict[str, Callable[[argparse.Namespace], None]] = {
    "env": _env,
    "demo": _demo,
    "import": _import,
    "plan_and_preprocess": _plan_and_preprocess,
    "upcycle": _upcycle,
    "predict": _predict,
    "evaluate": _evaluate,
    "export": _export,
    "package": _package,
    "study": _study,
}
