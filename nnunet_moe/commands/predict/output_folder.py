"""The output folder of a run: its settings, the files of an earlier run, and the finished cases."""

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_moe.commands.predict.bids_output import LOGS, SIDECAR, Derivative, segmentation
from nnunet_moe.commands.predict.cases import CaseFiles
from nnunet_moe.commands.predict.inputs import Inputs
from nnunet_moe.commands.predict.manifest import Manifest
from nnunet_moe.commands.predict.request import Request
from nnunet_moe.commands.predict.steps import PreparedCase
from nnunet_moe.commands.predict.trust import Trust
from nnunet_moe.errors import ModalityError, SettingsError
from nnunet_moe.images.bids_names import KEY as BIDS
from nnunet_moe.labels.labels import labels_of
from nnunet_moe.modalities.codes import parse_code
from nnunet_moe.models.folders import ModelFolder
from nnunet_moe.models.inference import PROBABILITIES, InferenceContext
from nnunet_moe.reports.evaluation_folder import EvaluationFolder
from nnunet_moe.runtime.environment import versions
from nnunet_moe.runtime.files import atomic_write, digest, remove_leftovers
from nnunet_moe.runtime.json_files import load_json

ALIGNMENT, PREVIOUS_STAGE = "alignment", "prev_stage_predictions"
"""Settings: runs without alignment do not have the first one, and those without --bids have no filters."""
MAY_DIFFER = ("device", "versions", PREVIOUS_STAGE)
"""The settings in which a resumed run may differ from the first run. Of a folder, the contents decide."""


class OutputFolder:
    """The folder to which a run, or one of its parts, writes.

    Args:
        request: the options of the run, with the alignment for this model.
        model: the model that predicts.
        context: the inference context of the model.
        evaluation: the evaluation that provides the expected scores, or None.
        trust: what says how far each case can be trusted, or None.
    """

    def __init__(
        self,
        request: Request,
        model: ModelFolder,
        context: InferenceContext,
        evaluation: EvaluationFolder | None,
        trust: Trust | None = None,
    ) -> None:
        self._request, self._context = request, context
        self._derivative = Derivative(request.out, request.images, request.previous_stage) if request.bids else None
        self._settings = {**_settings(request, model), **self._alignment_settings()}
        self._settings |= {BIDS: dict(request.filters)} if request.bids else {}
        part = "" if request.num_parts == 1 else f"_{request.part_id}_of_{request.num_parts}"
        self._tables = request.out / LOGS if request.bids else request.out
        """The folder of all files that are no segmentations."""
        self._settings_file, manifest_file, self.failures_file = (
            self._tables / name for name in (f"prediction{part}.json", f"manifest{part}.csv", f"failures{part}.csv")
        )
        self.manifest = Manifest(
            manifest_file,
            context.modalities,
            tuple(labels_of(context.dataset_json)),
            evaluation,
            request.alignment.is_on,
            trust,
        )
        self.inputs = Inputs(self._tables / f"inputs{part}.jsonl")
        self._endings = (context.dataset_json["file_ending"], *(PROBABILITIES if request.save_probabilities else ()))
        self._needed = (*self._endings, *((SIDECAR,) if request.bids else ()))
        """The endings of all files of a case."""
        self._has_other_stage = False
        """Whether an earlier run read the previous stage's segmentations from another folder."""
        self.altered: list[CaseFiles] = []
        """Cases whose segmentations are not what this command wrote; `begin` finds them. They stay as they are."""
        self.unfinished = request.out / f".unfinished{part}" / str(os.getpid())
        """The folder for files that are not complete yet."""

    def _alignment_settings(self) -> dict[str, Any]:
        """Return the settings of the alignment. Without it they are empty, as in earlier versions."""
        settings = self._request.alignment
        if not settings.is_on:
            return {}
        return {ALIGNMENT: {**settings.description(), "output_space": self._request.output_space}}

    @property
    def ending(self) -> str:
        """The file ending of segmentations."""
        return self._endings[0]

    def target(self, case: str) -> Path:
        """Return the path of a case's segmentation without its ending."""
        return self._request.out / case if self._derivative is None else segmentation(self._request.out, case)

    def write_sidecar(self, case: CaseFiles, prepared: PreparedCase, folder: Path) -> None:
        """Write to a folder the file that describes a segmentation in BIDS, if there is one."""
        if self._derivative is None:
            return
        modalities, files = self._context.modalities, prepared.files
        used = {name: files[name] for name, is_used in zip(modalities, prepared.code, strict=True) if is_used}
        grid = next(iter(used)) if prepared.aligned is None else prepared.aligned.reference
        content = self._derivative.sidecar(used, files[self._request.output_space or grid], case.previous_stage)
        (folder / f"{self.target(case.name).name}{SIDECAR}").write_text(content, encoding="utf-8")

    def remove_outputs(self, case: str) -> None:
        for ending in (*self._needed, *PROBABILITIES):
            Path(f"{self.target(case)}{ending}").unlink(missing_ok=True)

    def remove_unfinished(self) -> None:
        """Remove unfinished files, including those of killed runs of this part."""
        shutil.rmtree(self.unfinished.parent, ignore_errors=True)

    def begin(self, cases: Sequence[CaseFiles]) -> list[CaseFiles]:
        """Prepare the folder, and return the remaining cases. A resumed run keeps the finished cases."""
        request = self._request
        request.out.mkdir(parents=True, exist_ok=True)
        if self._derivative is not None:
            _write(request.out, self._derivative.files(self._settings["model"], self._context.dataset_json))
        self._tables.mkdir(exist_ok=True)
        begun = sorted(self._tables.glob("prediction*.json"))
        if request.continue_prediction:
            for file in begun:
                before = _require_same_settings(file, self._settings)
                self._has_other_stage |= before[PREVIOUS_STAGE] != self._settings[PREVIOUS_STAGE]
            if not self._settings_file.exists():
                self._require_no_outputs(cases)
            self.manifest.read()
            self.inputs.read()
        self.altered = [case for case in cases if self._is_altered(case)]
        todo = [case for case in cases if case not in self.altered and not self._is_done(case)]
        changed = {case.name for case in todo} & self.manifest.predictions.keys()
        for case in changed:
            del self.manifest.predictions[case]
        if changed:
            print(f"{len(changed)} cases are predicted again, because their files or the requirements changed")
            self.manifest.write()  # before their outputs are removed
        self._report_unknown(cases)
        for case in todo:
            self.remove_outputs(case.name)
        if not request.continue_prediction:
            _remove_tables(file for file in begun if _num_parts(file) != request.num_parts)
            _remove_tables([self._settings_file])
        self.remove_unfinished()
        for folder in {request.out, self._tables}:
            remove_leftovers(folder)
        contents = {self._settings_file.name: self._settings}
        if request.part_id == 0:  # nnU-Net writes them, too, for its evaluation and postprocessing
            contents |= {"dataset.json": self._context.dataset_json, "plans.json": self._context.plans.plans}
        _write(self._tables, {name: json.dumps(content, indent=4) for name, content in contents.items()})
        return todo

    def _is_altered(self, case: CaseFiles) -> bool:
        """Return whether a segmentation is not what this command wrote. It may be a correction, which must stay."""
        outputs = [Path(f"{self.target(case.name)}{ending}") for ending in self._endings]
        if case.name not in self.manifest.predictions or not all(map(_has_content, outputs)):
            return False
        try:
            return not self.inputs.has_written(case.name, outputs)
        except OSError:
            return False

    def _require_no_outputs(self, cases: Sequence[CaseFiles]) -> None:
        """Refuse to resume in a folder with segmentations that this command did not write."""
        if found := [case.name for case in cases if Path(f"{self.target(case.name)}{self._endings[0]}").exists()]:
            raise SettingsError(
                f"{self._request.out} holds segmentations of {len(found)} of the cases ({found[0]}, ...) that this "
                "command did not write. Predict into another folder, or run without --continue_prediction to replace "
                "them."
            )

    def _report_unknown(self, cases: Sequence[CaseFiles]) -> None:
        """Print how many cases are kept whose files are not known, because an earlier version predicted them."""
        if unknown := [
            case for case in cases if case.name in self.manifest.predictions and case.name not in self.inputs
        ]:
            print(
                f"{len(unknown)} cases are kept because none of their files changed after their segmentation was "
                "written. An earlier version predicted them and did not remember the contents of the files."
            )

    def _is_done(self, case: CaseFiles) -> bool:
        """Return whether an earlier run predicted a case from the same files, so that it can be kept.

        If they lie in another folder now, the manifest and the inputs follow.
        """
        prediction, modalities = self.manifest.predictions.get(case.name), self._context.modalities
        outputs = [Path(f"{self.target(case.name)}{ending}") for ending in self._needed]
        if prediction is None or not all(map(_has_content, outputs)):
            return False
        has_copies = self.inputs.has_copies(case.name)
        if self._request.requirement.refuse_copies and (bool(prediction.notes) if has_copies is None else has_copies):
            return False
        try:
            named = case.by_modality(self._context.dataset_json)
            self._request.requirement.check(parse_code(prediction.modalities, modalities), modalities)
            if case.name in self.inputs:
                if not self.inputs.are_same(case.name, case.read):
                    return False
                notes = _with_paths(prediction.notes, self.inputs.move(case.name, case.read))
                self.manifest.predictions[case.name] = replace(prediction, files=named, notes=notes)
                return True
            if prediction.files != named or self._has_other_stage:
                return False
            return max(map(_changed, case.read)) <= min(output.stat().st_mtime for output in outputs)
        except (ModalityError, OSError):
            return False


def _write(folder: Path, contents: Mapping[str, str]) -> None:
    """Write files, name -> content, each as a whole."""
    for name, content in contents.items():
        with atomic_write(folder / name) as unfinished:
            unfinished.write_text(content, encoding="utf-8")


def _has_content(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def _settings(request: Request, model: ModelFolder) -> dict[str, Any]:
    """Return all settings on which the outputs depend. The images are no part of them."""
    return {
        "model": f"{model.folder.parent.name}/{model.folder.name}",
        "plans": digest(model.folder / "plans.json"),
        "checkpoints": {f"fold_{fold}": digest(model.checkpoint_file(fold)) for fold in request.model.folds},
        "checkpoint": request.model.checkpoint,
        "step_size": request.prediction.step_size,
        "mirroring": request.prediction.mirroring,
        PREVIOUS_STAGE: None if request.previous_stage is None else str(request.previous_stage.resolve()),
        "num_parts": request.num_parts,
        "device": request.prediction.device,
        "versions": versions("nnunet-moe", "nnunetv2", "torch"),
    }


def _require_same_settings(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of an earlier run, which must be the same except for `MAY_DIFFER`."""
    try:
        before, optional = load_json(file), (ALIGNMENT, BIDS)
        differing = [
            key for key, value in settings.items() if key not in (*MAY_DIFFER, *optional) and before[key] != value
        ]
        differing += [key for key in optional if before.get(key) != settings.get(key)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"{file} cannot be read ({type(error).__name__}: {error}). Predict into another folder, or without "
            "--continue_prediction."
        ) from error
    if differing:
        raise SettingsError(
            f"{file.parent} was started with other settings ({', '.join(differing)}; see {file.name}). Predict into "
            "another folder, or without --continue_prediction."
        )
    return before


def _with_paths(notes: str, moved: Mapping[str, str]) -> str:
    """Return notes with the present paths of files.

    Args:
        notes: as in the manifest.
        moved: folder -> the folder to which its files moved.
    """
    if not moved:
        return notes
    folders = "|".join(re.escape(folder) for folder in sorted(moved, key=len, reverse=True))
    start = r"(?<![^\s('\"=])"  # no folder within another path
    return re.sub(f"{start}({folders})(?={re.escape(os.sep)})", lambda found: moved[found[1]], notes)


def _remove_tables(settings_files: Iterable[Path]) -> None:
    """Remove the settings files and the tables of runs that are replaced."""
    for file in settings_files:
        part = file.stem.removeprefix("prediction")
        for name in (f"manifest{part}.csv", f"failures{part}.csv", f"inputs{part}.jsonl", file.name):
            file.with_name(name).unlink(missing_ok=True)


def _num_parts(settings_file: Path) -> int:
    """Return the number of parts of a run from the name of its settings file."""
    match = re.fullmatch(r"prediction_\d+_of_(\d+)\.json", settings_file.name)
    return 1 if match is None else int(match[1])


def _changed(file: str) -> float:
    """Return when a file was last written, replaced or renamed, in seconds since 1970.

    A file that replaces another one can bring an older time of modification, but the system sets the time of change.
    """
    state = Path(file).stat()
    return max(state.st_mtime, state.st_ctime)
