"""The program of a container. It segments the cases that are sent one after another, all in this process."""

import argparse
import math
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nnunet_moe.commands.package.case_model import CaseModel, Segmented
from nnunet_moe.commands.package.mapping import InputMapping
from nnunet_moe.commands.package.sent import InputCase, Parser, add_options, sent_cases
from nnunet_moe.errors import ModalityError, NnunetMoeError
from nnunet_moe.images.alignment.aligned import AlignedCase
from nnunet_moe.images.alignment.settings import AlignmentSettings
from nnunet_moe.modalities.codes import code_text
from nnunet_moe.models.prediction_settings import PredictionSettings
from nnunet_moe.runtime.devices import DEVICES, default_device
from nnunet_moe.runtime.environment import versions
from nnunet_moe.runtime.memory import memory_for

PLATFORM_MODEL = Path("/opt/ml/model")
"""The folder where grand-challenge.org unpacks a model that was uploaded separately from the image."""


def main(app: Path, arguments: Sequence[str] | None = None) -> int:
    """Run the program of a packaged model.

    If a case cannot be segmented, the program prints one line to standard error and writes no file for it. It still
    segments the other cases.

    Args:
        app: the folder with `mapping.json`. It also holds `model`, unless an option or the platform gives another one.
        arguments: the command line, as the contract defines it.

    Returns:
        The exit status: 0 if all cases were segmented.
    """
    try:
        mapping = InputMapping.read(app / "mapping.json")
        options = read_options(mapping, arguments)
        model = _load(app, mapping, options)
        alignment = model.alignment_for(mapping.alignment)
        cases = sent_cases(mapping, options)
    except (NnunetMoeError, OSError) as error:
        return _failed("", error)
    if not cases:
        return _failed(
            "",
            ModalityError(f"There is no image in {options.input} with a name from mapping.json. Check the file names."),
        )
    return max([_segmented(case, model, mapping, alignment) for case in cases])


def log_lines(case: str, segmented: Segmented) -> list[str]:
    """Return the log lines of a case."""
    volumes = ", ".join(f"{label} {volume:.6g}" for label, volume in segmented.volumes.items())
    lines = [f"{case}: {segmented.modalities}, {segmented.seconds:.1f} s, volumes: {volumes}"]
    for label, expected in segmented.expected.items():
        reach = "" if math.isnan(expected.low) else f" ({expected.low:.2f} to {expected.high:.2f})"
        unusual = f", but unlike the scored cases in {', '.join(expected.unusual)}" if expected.unusual else ""
        lines.append(f"{case}: expected Dice of {label}: {expected.dsc:.2f}{reach}{unusual}")
    return lines + [f"{case}: WARNING: {warning}" for warning in segmented.warnings]


def alignment_lines(case: str, aligned: AlignedCase | None) -> list[str]:
    """Return the log lines on how the images of a case came onto one grid."""
    return [] if aligned is None else [f"{case}: {name} {text}" for name, text in aligned.texts.items()]


def read_options(mapping: InputMapping, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line.

    Args:
        arguments: the command line. None: the one of this process.

    Raises:
        SettingsError: the contract does not define an argument.
    """
    parser = Parser(prog="predict.py", description="Segment the cases that are sent.", allow_abbrev=False)
    parser.add_argument("--model", type=Path, help="use this packaged model (default: the model of the container)")
    parser.add_argument("--device", choices=DEVICES, help="run on this device (default: cuda if available, else cpu)")
    add_options(parser, mapping)
    return parser.parse_args(arguments)


def _load(app: Path, mapping: InputMapping, options: argparse.Namespace) -> CaseModel:
    folder = options.model or (PLATFORM_MODEL if _holds_something(PLATFORM_MODEL) else app / "model")
    device = options.device or default_device()
    settings = PredictionSettings(step_size=mapping.step_size, mirroring=mapping.mirroring, device=device)
    model = CaseModel(folder, settings)
    mapping.require_modalities(model.modalities)
    packages = ", ".join(f"{name} {version}" for name, version in versions("nnunet-moe", "nnunetv2", "torch").items())
    print(f"Model: {folder}, {'+'.join(model.modalities)}; {device}; {packages}", flush=True)
    return model


def _segmented(case: InputCase, model: CaseModel, mapping: InputMapping, alignment: AlignmentSettings) -> int:
    try:
        case.out.unlink(missing_ok=True)  # remove the file of an earlier run, in case this run fails
        with _standard_error_in_log():
            opened = model.read(case.files(mapping), alignment)
            for line in alignment_lines(case.name, opened.aligned):
                print(line, flush=True)
            for note in opened.images.ignored:
                print(note, flush=True)
            code = code_text(opened.images.available, model.modalities)
            with memory_for(case.name, code, model.device):
                segmented = model.segment(opened, case.out)
    except (NnunetMoeError, OSError) as error:
        return _failed(f"{case.name}: ", error)
    except Exception as error:  # any error concerns only this case
        print(f"{case.name}: {traceback.format_exc()}", flush=True)
        return _failed(f"{case.name}: {type(error).__name__}: ", error)
    print(*log_lines(case.name, segmented), sep="\n", flush=True)
    return 0


def _holds_something(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


@contextmanager
def _standard_error_in_log() -> Iterator[None]:
    """Redirect standard error to standard output, because libraries such as ITK print many lines for one case."""
    sys.stdout.flush()
    kept = os.dup(2)
    os.dup2(1, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _failed(where: str, error: Exception) -> int:
    """Print an error on one line, although messages of ITK have several, and return the exit status."""
    print(f"{where}{' '.join(str(error).split())}", file=sys.stderr, flush=True)
    return 1
