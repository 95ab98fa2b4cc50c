"""Draw folds over the training cases of a raw dataset, with nnU-Net's generator, as a file for the key `splits`.

Use it where a publication names the number of folds, but not their cases. The folds are then not the published ones.
"""

import argparse
import json
from pathlib import Path

from nnunetv2.utilities.crossval_split import generate_crossval_split

SEED = 12345
"""nnU-Net's own."""


def draw_folds(raw: Path, number: int) -> list[dict[str, list[str]]]:
    """Return the folds: `train` and `val` of each."""
    ending = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))["file_ending"]
    cases = sorted(label.name.removesuffix(ending) for label in (raw / "labelsTr").iterdir())
    folds = generate_crossval_split(cases, seed=SEED, n_splits=number)
    return [{part: [str(case) for case in fold[part]] for part in ("train", "val")} for fold in folds]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path, help="the folder of the raw dataset")
    parser.add_argument("out", type=Path, help="the JSON file to write")
    parser.add_argument("-k", type=int, default=3, help="the number of folds (default: %(default)s)")
    options = parser.parse_args()
    options.out.write_text(json.dumps(draw_folds(options.raw, options.k), indent=1) + "\n", encoding="utf-8")
