"""Register images that were moved by known motions, and count how often the motion is found. Print Markdown.

    python benchmarks/alignment.py --data open_ms/imagesTr

DATA is a folder of registered, skull-stripped brain images (CASE_0000 is T1w, 0001 T2w, 0002 FLAIR). T2w and FLAIR are
moved by random motions, on slices of 1 and of 3 mm in turn, and registered to T1w. Then images of different patients
are registered, which must be refused.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk

from nnunet_moe.images.alignment.registration import Registration, register
from nnunet_moe.images.alignment.resampling import resampled
from nnunet_moe.images.alignment.settings import LEAST_COVERED
from nnunet_moe.images.alignment.volumes import Space, Volume
from nnunet_moe.reports.table import markdown_table
from nnunet_moe.runtime.environment import machine

NAMES = ("T1w", "T2w", "FLAIR")
LARGEST = 15.0
"""Largest shift in mm, and largest turn in degrees."""
WANTED = 1.0
"""Largest mean error, in mm."""
SLICES = (1.0, 3.0)


def main() -> None:
    """Register all pairs."""
    options = _options()
    cases = sorted({file.name.removesuffix("_0000.nii.gz") for file in options.data.glob("*_0000.nii.gz")})
    rows, random = [], np.random.default_rng(options.seed)
    with TemporaryDirectory() as folder:
        for number in range(options.motions):
            case, channel = cases[number % len(cases)], 1 + number // len(cases) % 2
            thickness = SLICES[number // (2 * len(cases)) % 2]
            reference = volume(options.data, case, 0)
            motion = random_motion(random, reference.space)
            file = _moved_file(volume(options.data, case, channel), motion, thickness, Path(folder))
            start = time.process_time()
            found = register(reference, file, LEAST_COVERED)
            seconds = time.process_time() - start
            rows.append((NAMES[channel], thickness, _error(reference, found, motion), found.problem, seconds))
            print(number, case, *rows[-1], flush=True)
        refused = [_of_others(options.data, cases, channel) for channel in range(3)]
    print(f"\n{machine()}\n")
    print(markdown_table(("", "motions", "found", "refused", "wrong", "median mm", "largest mm", "s"), _table(rows)))
    print(f"\nDifferent patients, refused: {sum(map(bool, refused))} of {len(refused)}: {refused}")


def volume(data: Path, case: str, channel: int) -> Volume:
    """Read an image."""
    return Volume.of_file(NAMES[channel], str(data / f"{case}_{channel:04d}.nii.gz"), [])


def random_motion(random: np.random.Generator, space: Space) -> np.ndarray:
    """Return a turn about the center of the image, and a shift: directions and lengths are uniform."""

    def vector() -> np.ndarray:
        direction = random.normal(size=3)
        return random.uniform(0, LARGEST) * direction / np.linalg.norm(direction)

    turn = sitk.Euler3DTransform()
    turn.SetCenter(space.center)
    turn.SetRotation(*np.radians(vector()).tolist())
    turn.SetTranslation(vector().tolist())
    motion = np.eye(4)
    motion[:3, :3] = np.reshape(turn.GetMatrix(), (3, 3))
    motion[:3, 3] = turn.TransformPoint((0.0, 0.0, 0.0))
    return motion


def moved(original: Volume, motion: np.ndarray, thickness: float) -> sitk.Image:
    """Return an image as a scan of the moved patient with thicker slices; positions p there were motion(p)."""
    space = original.space
    size, spacing = np.array(space.size), np.array(space.spacing)
    spacing[2], size[2] = thickness, np.ceil(size[2] * spacing[2] / thickness)
    onto = Space(tuple(size.tolist()), tuple(spacing.tolist()), space.origin, space.direction)
    return resampled(original.image, onto, motion)


def _moved_file(original: Volume, motion: np.ndarray, thickness: float, folder: Path) -> Volume:
    file = folder / "moved.nii.gz"
    sitk.WriteImage(moved(original, motion, thickness), str(file))
    return Volume.of_file(original.modality, str(file), [])


def _error(reference: Volume, found: Registration, motion: np.ndarray) -> float:
    """Return the mean distance between found and true positions of the reference's foreground, in mm."""
    points = reference.space.points(np.argwhere(reference.foreground)[::997, ::-1])
    both = motion @ found.motion
    return float(np.linalg.norm(points @ both[:3, :3].T + both[:3, 3] - points, axis=1).mean())


def _of_others(data: Path, cases: list[str], channel: int) -> str | None:
    return register(volume(data, cases[0], 0), volume(data, cases[-1], channel), LEAST_COVERED).problem


def _table(rows: list[tuple[str, float, float, str | None, float]]) -> Iterator[tuple[str, ...]]:
    for name in NAMES[1:]:
        for thickness in SLICES:
            of_kind = [row for row in rows if row[:2] == (name, thickness)]
            if not of_kind:
                continue
            used = [error for _, _, error, problem, _ in of_kind if problem is None]
            yield (
                f"{name}, {thickness:g} mm",
                str(len(of_kind)),
                str(sum(error < WANTED for error in used)),
                str(len(of_kind) - len(used)),
                str(sum(error >= WANTED for error in used)),
                f"{np.median(used):.2f}",
                f"{max(used):.2f}",
                f"{np.mean([row[4] for row in of_kind]):.0f}",
            )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of registered images")
    parser.add_argument("--motions", type=int, default=100, help="try so many motions (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the motions (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
