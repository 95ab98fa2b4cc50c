"""Check that images lie on the same grid."""

from typing import Any

import numpy as np

from nnunet_moe.errors import ModalityError

ORIGIN_TOLERANCE = 1e-2  # mm; headers of images on the same grid differ by rounding
TOLERANCE = 1e-4  # of spacings in mm and direction cosines: 0.03 mm over a head


def require_same_geometry(
    first_file: str, file: str, first: tuple[tuple[int, ...], dict], other: tuple[tuple[int, ...], dict]
) -> None:
    """Compare two files of a case by their shapes and by the properties that nnU-Net's reader returned.

    Raises:
        ModalityError: the files do not lie on the same grid.
    """
    sides = [{"shape": shape, **_flat(properties)} for shape, properties in (first, other)]
    for name, value in sides[0].items():
        if not _is_same(name, value, sides[1].get(name)):
            raise ModalityError(
                f"{file} and {first_file} differ in {name}: {sides[1].get(name)} and {value}. All files of a case "
                "must lie on the same grid. Register and resample them first."
            )


def _flat(properties: dict) -> dict[str, Any]:
    """Return the reader's properties without nesting: `sitk_stuff.origin` and so on."""
    flat: dict[str, Any] = {}
    for key, value in properties.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": entry for inner, entry in _flat(value).items()}
        else:
            flat[key] = value
    return flat


def _is_same(name: str, value: Any, other: Any) -> bool:
    if np.shape(value) != np.shape(other):
        return False
    tolerance = np.full(np.shape(value), ORIGIN_TOLERANCE if name.endswith("origin") else TOLERANCE)
    if name.endswith("affine"):
        tolerance[..., -1] = ORIGIN_TOLERANCE  # its last column is the origin
    return bool((np.abs(np.subtract(value, other)) <= tolerance).all())
