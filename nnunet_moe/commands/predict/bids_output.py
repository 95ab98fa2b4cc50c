"""The BIDS derivative dataset that `nnunet_moe predict --bids` writes.

Its rules: https://bids-specification.readthedocs.io/en/stable/derivatives/introduction.html
"""

import codecs
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nnunet_moe.errors import FileError, SettingsError
from nnunet_moe.images.bids_names import DERIVATIVES
from nnunet_moe.labels.labels import IGNORE, label_values, voxel_values
from nnunet_moe.runtime.environment import versions
from nnunet_moe.runtime.files import printable, visible
from nnunet_moe.runtime.json_files import parse_json, read_json

DESCRIPTION = "dataset_description.json"
SIDECAR = ".json"
NAME = "nnunet_moe"
"""The name of this pipeline in `GeneratedBy`."""
KIND = "space-orig_desc-nnunetmoe_dseg"
"""What follows the subject and the session in the names of segmentations: they lie on the grid of an original image."""
_VERSION = "1.10.0"
_RAW, _PREVIOUS = "raw", "previous"
"""The names of other datasets in BIDS URIs."""
LOGS = "logs"
"""The folder of files that are no part of BIDS. Validators skip it, also where they do not read `.bidsignore`."""


def segmentation(dataset: Path, case: str) -> Path:
    """Return the path of a case's segmentation in a derivative dataset, without its ending."""
    return dataset.joinpath(*case.split("_"), "anat", f"{case}_{KIND}")


@dataclass(frozen=True)
class Derivative:
    """A derivative dataset.

    Raises:
        SettingsError: the folder holds something else, or lies in a place that BIDS does not allow.
    """

    out: Path
    raw: Path
    """The dataset of the images."""
    previous_stage: Path | None
    """For a cascade, the derivative dataset of the previous stage."""

    def __post_init__(self) -> None:
        out, raw = self.out.resolve(), self.raw.resolve()
        if raw.is_relative_to(out):
            raise SettingsError(f"-o {self.out} contains the images of -i. Choose another folder.")
        if out.is_relative_to(raw):
            top, *below = out.relative_to(raw).parts
            if top != DERIVATIVES or not below or NAME not in out.name:
                raise SettingsError(
                    f"-o {self.out} lies in the dataset of -i. There BIDS allows only folders in {DERIVATIVES}, whose "
                    f"names contain that of the program. Choose {self.raw / DERIVATIVES / NAME}, or a folder outside."
                )
        if out.is_dir() and visible(out) and not self._is_own():
            raise SettingsError(
                f"-o {self.out} is not empty, and `nnunet_moe predict --bids` did not write it. Choose another folder."
            )

    def files(self, model: str, dataset_json: dict[str, Any]) -> dict[str, str]:
        """Return name -> content of the files that describe the dataset.

        Args:
            model: the name of the model.
            dataset_json: the content of the model's dataset.json.
        """
        return {
            DESCRIPTION: json.dumps(self._description(model), indent=4),
            "dseg.tsv": "".join(f"{index}\t{name}\n" for index, name in [("index", "name"), *_rows(dataset_json)]),
        }

    def sidecar(self, files: Mapping[str, str], grid: str, previous_stage: str | None) -> str:
        """Return the content of the file that describes a segmentation.

        Args:
            files: modality -> file, for those that were used.
            grid: the file on whose grid the segmentation lies.
            previous_stage: the segmentation of a cascade's previous stage, or None.
        """
        sources = [self._uri(_RAW, self.raw, file) for file in files.values()]
        if previous_stage is not None and self.previous_stage is not None:
            sources.append(self._uri(_PREVIOUS, self.previous_stage, previous_stage))
        content = {
            "Description": f"Segmentation from {', '.join(files)}. The file dseg.tsv names its values.",
            "Sources": sources,
            "SpatialReference": self._uri(_RAW, self.raw, grid),
            "Manual": False,
            "Modalities": list(files),
        }
        return json.dumps(content, indent=4)

    def _description(self, model: str) -> dict[str, Any]:
        out, raw = self.out.resolve(), self.raw.resolve()
        links = {_RAW: Path(os.path.relpath(raw, out)).as_posix() if out.is_relative_to(raw) else raw.as_uri()}
        if self.previous_stage is not None:
            links[_PREVIOUS] = self.previous_stage.resolve().as_uri()
        installed = versions("nnunet-moe", "nnunetv2")
        return {
            "Name": f"Segmentations of {_name(raw)}",
            "BIDSVersion": _VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [
                {"Name": NAME, "Version": installed["nnunet-moe"], "Description": f"Segmented with {model}"},
                {"Name": "nnunetv2", "Version": installed["nnunetv2"]},
            ],
            "DatasetLinks": links,
        }

    def _is_own(self) -> bool:
        try:
            return read_json(self.out / DESCRIPTION)["GeneratedBy"][0]["Name"] == NAME
        except (FileError, KeyError, IndexError, TypeError):
            return False

    def _uri(self, name: str, dataset: Path, file: str) -> str:
        below = Path(file).absolute().relative_to(dataset.resolve()).as_posix()
        return f"bids:{name}:{quote(below, safe='/+')}"


def _name(dataset: Path) -> str:
    """Return the name that a dataset gives itself, otherwise that of its folder, and then say why."""
    file = dataset / DESCRIPTION
    try:
        content = parse_json(file.read_bytes().removeprefix(codecs.BOM_UTF8))
        name = content.get("Name") if isinstance(content, dict) else None
        if isinstance(name, str) and name.strip():
            return name.strip()
        why = "has no Name that is a text"
    except FileNotFoundError:
        why = "does not exist"
    except (OSError, ValueError) as error:  # also of bytes that are not UTF-8
        why = f"cannot be read as JSON in UTF-8 ({error})"
    print(f"WARNING: {file} {why}. The output is called after the folder, {printable(dataset.name)}.", flush=True)
    return printable(dataset.name)


def _rows(dataset_json: dict[str, Any]) -> list[tuple[int, str]]:
    """Return the values of voxels with the labels, or all regions, to which they belong."""
    labels, rows = label_values(dataset_json), []
    for value in voxel_values(dataset_json):
        names = [name for name, of in labels.items() if value in (of if isinstance(of, tuple) else (of,))]
        if names != [IGNORE]:
            rows.append((value, " ".join("; ".join(names).split())))
    return rows
