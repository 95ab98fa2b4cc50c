"""NIfTI files with damage of the kinds that copying, conversion and headers of other programs cause."""

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np

FIELDS = {
    # name: (offset, format, values besides random ones)
    "sizeof_hdr": (0, "<i", (0, 348, 540, 1543569408)),
    "dim": (40, "<8h", ()),
    "datatype": (70, "<h", (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 511, 512, 768, 1024, 1280, 1536, 1792, 2304)),
    "bitpix": (72, "<h", (0, 8, 16, 32, 64)),
    "pixdim": (76, "<8f", ()),
    "vox_offset": (108, "<f", (0, 348, 352, 353, 400, 1e9)),
    "scl_slope": (112, "<f", (0, 1, 2.5, -1)),
    "scl_inter": (116, "<f", (0, 1, -1024)),
    "xyzt_units": (123, "<B", (0, 1, 2, 3, 10)),
    "qform_code": (252, "<h", (0, 1, 2, 4, 5, -1, 99)),
    "sform_code": (254, "<h", (0, 1, 2, 4, 5, -1, 99)),
    "quatern": (256, "<6f", ()),
    "srow": (280, "<12f", ()),
    "magic": (344, "<4s", (b"n+1\0", b"ni1\0", b"n+2\0", b"\0\0\0\0", b"nope")),
}
ODD_NUMBERS = (0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, 3.4e38, float("nan"), float("inf"), float("-inf"))
ODD_SIZES = (-1, 0, 1, 2, 3, 7, 300, 32767)


def base_file(file: Path, shape: tuple[int, ...], generator: np.random.Generator) -> None:
    """Write a sound image of random voxels."""
    kind = generator.choice([np.uint8, np.int16, np.int32, np.float32, np.float64])
    array = generator.normal(100, 20, shape).astype(kind)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0]), dtype=kind), file)


def mutate(file: Path, generator: np.random.Generator) -> str:
    """Damage a compressed NIfTI file in one to three ways, and return what was done."""
    content = bytearray(gzip.decompress(file.read_bytes()))
    done = []
    for _ in range(generator.integers(1, 4)):
        kind = generator.choice(["field", "field", "field", "bytes", "cut", "longer"])
        if kind == "field":
            done.append(_change_field(content, generator))
        elif kind == "bytes":
            at = int(generator.integers(0, min(len(content), 352)))
            content[at] = int(generator.integers(0, 256))
            done.append(f"byte {at}")
        elif kind == "cut":
            del content[int(generator.integers(0, len(content))) :]
            done.append(f"cut at {len(content)}")
        else:
            content += generator.bytes(int(generator.integers(1, 100)))
            done.append("longer")
        if len(content) < 352:
            break
    packed = gzip.compress(bytes(content), 1)
    if generator.random() < 0.1:
        packed = packed[: int(generator.integers(0, len(packed)))]
        done.append("gzip cut")
    file.write_bytes(packed)
    return ", ".join(done)


def _change_field(content: bytearray, generator: np.random.Generator) -> str:
    name = str(generator.choice(list(FIELDS)))
    offset, form, values = FIELDS[name]
    old = list(struct.unpack_from(form, content, offset))
    at = int(generator.integers(0, len(old)))
    letter = form[-1]
    if letter == "f":
        old[at] = float(generator.choice([*ODD_NUMBERS, *values, generator.normal()]))
    elif letter == "s":
        old[at] = values[int(generator.integers(0, len(values)))]
    else:
        old[at] = int(generator.choice([*(values or ODD_SIZES), generator.integers(0, 120)]))
    struct.pack_into(form, content, offset, *old)
    return f"{name}[{at}] = {old[at]!r}"
