"""Score trained models for every subset of the modalities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from nnunet_moe.commands.evaluate.model_state import trained_with
from nnunet_moe.commands.evaluate.models import ScoredCase, cases_of_fold, find_models, folder_cases
from nnunet_moe.commands.evaluate.overlay import Overlay, overlay_index
from nnunet_moe.commands.evaluate.records import Records
from nnunet_moe.commands.evaluate.request import Request
from nnunet_moe.commands.evaluate.results import ALL_EACH_HAS, MEAN_OVER_LABELS, Results
from nnunet_moe.commands.evaluate.scoring import ModelRun, Part, Scorer
from nnunet_moe.commands.evaluate.steps import open_case
from nnunet_moe.errors import ModalityError, ModelError, SettingsError
from nnunet_moe.labels.label_sets import BY_CASE, BY_MODALITY, LabelSets
from nnunet_moe.labels.labels import labels_of
from nnunet_moe.modalities.codes import Code, all_codes, channel_names, code_text, parse_code
from nnunet_moe.models.folders import ModelFolder
from nnunet_moe.patients import TABLE, patients_of, read_patients, require_a_row, without_patient
from nnunet_moe.reports.table import short_name
from nnunet_moe.runtime.files import dataset_name, remove_leftovers, require_own_files, working_folder
from nnunet_moe.runtime.network_time import NetworkTime

MAX_CODES_BY_DEFAULT = 31  # all subsets of five modalities
RECORDS, PREDICTIONS = "records", "predictions"
OF_AN_EVALUATION = (RECORDS, "results.csv")


@dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation."""

    results: Results
    gates: dict[str, dict[str, np.ndarray]]
    """Model -> layer -> gate weights `(codes, experts)`."""
    overlays: list[Overlay]
    models: dict[str, dict]
    """Model -> what its scores depend on, apart from the cases."""
    network_time: NetworkTime
    notes: Sequence[str] = ()
    """Messages on files that belong to no scored case."""


def score_models(request: Request) -> Evaluation:
    """Segment and score every case with every code, with the models of each trainer.

    Scores are kept below the output folder, so that a killed run can resume. A failed segmentation becomes a row in the
    results, and the run continues with the others.

    Raises:
        ModelError: a model, fold or case is missing, or the models do not belong together.
        ModalityError: images and labels do not belong together, or a code is unknown.
        SettingsError: options exclude each other, or the output folder holds other files.
    """
    network_time = NetworkTime()
    _require_place(request.out)
    dataset = dataset_name(request.models.dataset)
    models = {trainer: find_models(request.models.of_trainer(trainer)) for trainer in request.models.trainers}
    dataset_json = _dataset_json([model for found in models.values() for model in found])
    modalities = channel_names(dataset_json)
    parts, notes = _parts(request, dataset, dataset_json["file_ending"])
    cases = [case for part in parts for case in part.cases]
    patients, without = _patients(request, dataset, [case.name for case in cases])
    notes += without
    for note in notes:
        print(f"WARNING: {note}")
    codes = choose_codes(modalities, request.codes, request.num_codes, cases)
    labels = tuple(labels_of(dataset_json))
    _require_names(labels, [code_text(code, modalities) for code in codes])
    scored = _score(request, models, parts, codes, LabelSets.of(dataset_json), network_time)
    results = Results(
        scored.rows,
        modalities=modalities,
        codes=codes,
        trainers=request.models.trainers,
        dedicated=scored.dedicated,
        labels=labels,
        cases=[case.name for case in cases],
        patients=patients,
    )
    overlays = [_overlay(title, case, results, parts, scored.last_run) for title, case in extreme_cases(results)]
    return Evaluation(results, scored.gates, overlays, scored.models, network_time, notes)


@dataclass(frozen=True)
class _Scored:
    rows: list[dict]
    gates: dict[str, dict[str, np.ndarray]]
    models: dict[str, dict]
    dedicated: set[str]
    last_run: ModelRun


def _score(
    request: Request,
    models: Mapping[str, Sequence[ModelFolder]],
    parts: Sequence[Part],
    codes: Sequence[Code],
    label_sets: LabelSets | None,
    network_time: NetworkTime,
) -> _Scored:
    """Score all models below the output folder, with the requested processes."""
    device = request.prediction.device
    (request.out / RECORDS).mkdir(parents=True, exist_ok=True)  # a failure should come before hours of work
    remove_leftovers(request.out)
    with (
        working_folder(request.out) as arrays,
        request.workers.workers("preparing", device) as preparing,
        request.workers.workers("finishing", device) as finishing,
    ):
        scorer = Scorer(
            tuple(codes),
            label_sets,
            request.metrics,
            request.prediction,
            Records(request.out / RECORDS),
            request.out / PREDICTIONS,
            request.save_predictions,
            preparing,
            finishing,
            network_time,
            arrays,
            request.quality,
        )
        return _run_models(scorer, models, parts)


def _run_models(scorer: Scorer, models: Mapping[str, Sequence[ModelFolder]], parts: Sequence[Part]) -> _Scored:
    """Score every model on the cases of every part, one after another."""
    rows: list[dict] = []
    gates: dict[str, dict[str, np.ndarray]] = {}
    states: dict[str, dict] = {}
    dedicated: set[str] = set()
    run = None
    for trainer, found in models.items():
        for part in parts:
            taken: dict[Code, ModelFolder] = {}
            for model in found:
                run = ModelRun(scorer, model, part)
                for code in run.codes:
                    _require_single(taken.setdefault(code, model), model)
                if run.segmenter.is_dedicated:
                    dedicated.add(trainer)
                about = f"{model.folder.name}, fold {part.fold_text}"
                states[about] = {**run.model_state, "trained_with": trained_with(model, part.folds)}
                if part is parts[0] and (weights := run.gates()):
                    gates[f"{trainer}, fold {part.folds[0]}"] = weights
                rows.extend(run.rows())
    if run is None or not rows:
        raise ModelError(
            f"There is nothing to score: no case has the modalities that {', '.join(models)} and -codes need. A "
            "trainer that cannot handle missing modalities takes only complete cases. Choose other codes or cases."
        )
    return _Scored(rows, gates, states, dedicated, run)


def extreme_cases(results: Results) -> list[tuple[str, str]]:
    """Return the worst, median and best case of the first trainer, by its mean DSC over codes.

    Only cases that have all modalities, a defined DSC and no failure count. If no case has all modalities, the DSC with
    all modalities of each case is used. Of two median cases, the lower one is taken.
    """
    trainer, label = results.trainers[0], results.shown_labels[0]
    failed = results.failures
    codes = results.codes if results.complete_cases else (ALL_EACH_HAS,)
    cases = (results.complete_cases or set(results.own_codes)) - set(failed["case"][failed["trainer"] == trainer])
    by_code = [results.values(trainer, code, label, "dsc", cases) for code in codes]
    known = [values for values in by_code if values is not None]
    if not known or not cases:
        return []
    order = pd.concat(known, axis=1).mean(axis=1).dropna().sort_values(kind="stable").index
    if len(order) == 0:
        return []
    if len(order) == 1:
        return [("Only case", str(order[0]))]
    places = {len(order) - 1: "Best", (len(order) - 1) // 2: "Median", 0: "Worst"}
    return [(f"{title} case of {short_name(trainer)}", str(order[place])) for place, title in sorted(places.items())]


def _overlay(title: str, name: str, results: Results, parts: Sequence[Part], run: ModelRun) -> Overlay:
    part, case = next((part, case) for part in parts for case in part.cases if case.name == name)
    opened = open_case(case, run.segmenter.context)
    index = overlay_index(opened.reference)
    predictions, scores = {}, {}
    for trainer in results.trainers:
        for code in results.codes:
            values = results.values(trainer, code, results.shown_labels[0], "dsc", [name])
            prediction = run.scorer.records.overlay(trainer, part.fold_text, name, code)
            if values is not None and prediction is not None:
                predictions[trainer, code], scores[trainer, code] = prediction, float(values[name])
    return Overlay(
        case=name,
        title=title,
        images=opened.loaded.image[:, index],
        reference=opened.reference[index],
        predictions=predictions,
        scores=scores,
        aspect=opened.spacing[-2] / opened.spacing[-1],
    )


def choose_codes(
    modalities: Sequence[str], texts: Sequence[str] | None, number: int | None, cases: Sequence[ScoredCase]
) -> list[Code]:
    """Choose the codes to score: the named ones, a number of codes drawn at random, or all that some case has.

    The random choice is the same each time.

    Raises:
        ModalityError: a text is not a code, or no case has any of the modalities.
        SettingsError: the number is out of range, or there are more than 31 codes and the user chose none.
    """
    codes = all_codes(len(modalities))
    if texts is not None:
        named = {parse_code(text, modalities) for text in texts}
        return [code for code in codes if code in named]
    kinds_of_cases = {case.channels for case in cases}
    codes = [code for code in codes if any(kind.issuperset(np.flatnonzero(code)) for kind in kinds_of_cases)]
    if not codes:
        raise ModalityError(
            f"No case has an image of {', '.join(modalities)}. Name the files with the channels of dataset.json: "
            "CASE_0000, CASE_0001, ..."
        )
    if number is not None:
        if not 1 <= number <= len(codes):
            raise SettingsError(f"-num_codes is {number}. With these cases, it must be from 1 to {len(codes)}.")
        drawn = np.random.default_rng(0).permutation(len(codes) - 1)[: number - 1]
        return [code for index, code in enumerate(codes) if index in drawn or code == codes[-1]]
    if len(codes) > MAX_CODES_BY_DEFAULT:
        raise SettingsError(
            f"These cases have {len(codes)} codes of {len(modalities)} modalities. By default, at most "
            f"{MAX_CODES_BY_DEFAULT} are scored. Choose codes with -codes, or draw some at random with -num_codes."
        )
    return codes


def _require_names(labels: Sequence[str], codes: Sequence[str]) -> None:
    """Make sure that labels and codes can name rows and files.

    Raises:
        SettingsError: a label has the name of the mean, or two names would share a file.
    """
    if MEAN_OVER_LABELS in labels:
        raise SettingsError(
            f"A label has the name {MEAN_OVER_LABELS!r}, which the tables use for the mean. Rename the label."
        )
    for names in (codes, labels):
        require_own_files(names)


def _require_place(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise SettingsError(f"-o {out} is a file. Choose a folder.")
    if out.is_dir() and any(out.iterdir()) and not any((out / name).exists() for name in OF_AN_EVALUATION):
        raise SettingsError(f"-o {out} is not empty and holds no evaluation. Choose another folder.")


def _patients(request: Request, dataset: str, cases: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return case -> patient, as far as it is known, and messages on cases without a patient.

    The table of the raw dataset is only for the images of this dataset. Others may have the same names by chance.

    Raises:
        FileError: the table cannot be read.
        SettingsError: the table of `-patients` names none of the cases.
    """
    if request.patients is not None:
        patients, table = read_patients(request.patients), f"-patients {request.patients}"
        require_a_row(cases, patients, table)
        return patients, without_patient(cases, patients, table)
    if request.images is not None and request.images.resolve().parent.name != dataset:
        return {}, []
    patients = patients_of(dataset)
    return patients, without_patient(cases, patients, f"{TABLE} of {dataset}") if patients else []


def _parts(request: Request, dataset: str, file_ending: str) -> tuple[list[Part], list[str]]:
    """Return the cases to score, and messages on files that belong to none of them."""
    if request.images is not None and request.labels is not None:
        cases, notes = folder_cases(request.images, request.labels, file_ending)
        return [Part(request.models.folds, tuple(cases))], notes
    parts = [Part((fold,), tuple(cases_of_fold(dataset, fold, request.part))) for fold in request.models.folds]
    names = [case.name for part in parts for case in part.cases]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        do = "test" if request.part == "test" else "validate"
        raise ModelError(
            f"Several of these folds {do} the same cases: {', '.join(twice)}. Each case may count only once. "
            "Choose other folds with -f."
        )
    return parts, []


def _dataset_json(models: Sequence[ModelFolder]) -> dict:
    """Return the dataset.json that all models share, with label sets if a model has them.

    Raises:
        ModelError: a file cannot be read, or the models differ in channels, labels, file ending or label sets.
    """
    contents = [model.content("dataset") for model in models]
    with_sets = [content for content in contents if LabelSets.of(content) is not None]
    sets = [[content.get(key) for key in (BY_MODALITY, BY_CASE)] for content in with_sets]
    if any(each != sets[0] for each in sets):
        raise ModelError(
            f"{' and '.join(str(model.folder) for model in models)} have different label sets in dataset.json. "
            "The scored labels must be the same for all models. Use the same label sets, or evaluate the models "
            "separately."
        )
    for model, content in zip(models, contents, strict=True):
        same = channel_names(content) == channel_names(contents[0]) and labels_of(content) == labels_of(contents[0])
        if not same or content["file_ending"] != contents[0]["file_ending"]:
            raise ModelError(
                f"{model.folder} and {models[0].folder} differ in the channels, labels or file ending of dataset.json. "
                "Evaluate them separately."
            )
    return (with_sets or contents)[0]


def _require_single(first: ModelFolder, second: ModelFolder) -> None:
    if first is not second:
        raise ModelError(
            f"{first.folder} and {second.folder} are models for the same modalities. Move one of them out of the "
            "results folder, or choose its configuration with -c."
        )
