"""Remember the files from which a fingerprint was computed, and find those whose contents changed since."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nnunet_moe.commands.plan_and_preprocess.raw_dataset import RawDataset, some
from nnunet_moe.errors import FileError, ModalityError
from nnunet_moe.images.file_names import files_of
from nnunet_moe.runtime.file_state import FileState
from nnunet_moe.runtime.files import atomic_write
from nnunet_moe.runtime.json_files import read_json

NAME = "fingerprint_files.json"


def states_of(images: Sequence[str], label: str) -> dict[str, FileState]:
    """Return path -> state of the files of a case; call this before reading them.

    Raises:
        ModalityError: a file cannot be read.
    """
    states = {}
    for path in files_of(images, label):
        try:
            states[path] = FileState.of(Path(path))
        except OSError as error:
            raise ModalityError(f"{path} cannot be read: {error.strerror}. Restore it, or remove the case.") from error
    return states


def write_states(folder: Path, dataset: RawDataset, states: Mapping[str, FileState]) -> None:
    """Write the states of the files next to the fingerprint.

    Args:
        folder: the folder of the fingerprint.
        dataset: the raw dataset.
        states: path -> the state of the file before it was read.
    """
    files = {_relative(path, dataset): state.as_json() for path, state in sorted(states.items())}
    with atomic_write(folder / NAME) as unfinished:
        content = {"reader": dataset.reader_class.__name__, "files": files}
        unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")


def require_same_files(folder: Path, dataset: RawDataset, num_threads: int) -> str | None:
    """Make sure that the files of a dataset have the same contents as when its fingerprint was computed.

    A file that nobody touched is not read. After the dataset was copied, all files are read once.

    Args:
        folder: the folder of the fingerprint.
        dataset: the raw dataset, which has the same files by their names.
        num_threads: number of threads that read files.

    Returns:
        A warning if an earlier version computed the fingerprint, which did not remember the contents. None otherwise.

    Raises:
        ModalityError: files changed, or nnU-Net's reader did.
        FileError: the file that remembers the contents is damaged.
    """
    fingerprint = folder / "dataset_fingerprint.json"
    paths = [path for case in dataset.cases.values() for path in files_of(case["images"], case["label"])]
    if not (folder / NAME).exists():
        newer = [path for path in paths if Path(path).stat().st_mtime > fingerprint.stat().st_mtime]
        what = f"{some(newer)}: newer than" if newer else "An earlier version computed"
        return f"{what} {fingerprint}, and there is no {NAME}. Recompute the fingerprint with --clean if files changed."
    remembered = read_json(folder / NAME)
    try:
        reader, files = remembered["reader"], remembered["files"]
        states = {name: FileState.from_json(state, folder / NAME) for name, state in files.items()}
    except (KeyError, AttributeError, FileError) as error:
        raise FileError(
            f"{folder / NAME} is damaged: {error}. Recompute it and the fingerprint with --clean."
        ) from error
    if reader != dataset.reader_class.__name__:
        raise ModalityError(
            f"{fingerprint} was computed with nnU-Net's reader {reader}, but the files are now read with "
            f"{dataset.reader_class.__name__}. Recompute it with --clean."
        )
    found = {_relative(path, dataset): Path(path) for path in paths}
    with ThreadPoolExecutor(num_threads) as threads:
        same = threads.map(lambda name: name in states and states[name].is_of(found[name]), found)
        changed = [str(path) for path, is_same in zip(found.values(), same, strict=True) if not is_same]
    if changed := [*changed, *sorted(states.keys() - found)]:
        raise ModalityError(
            f"{fingerprint} was computed from other contents of {some(changed)}. Recompute it with --clean."
        )
    return None


def _relative(path: str, dataset: RawDataset) -> str:
    """Return the path of a file below the raw dataset, which may be moved, or its full path if it lies elsewhere."""
    file = Path(path)
    return file.relative_to(dataset.folder).as_posix() if file.is_relative_to(dataset.folder) else path
