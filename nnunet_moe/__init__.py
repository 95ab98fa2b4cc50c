"""Segmentation with any subset of the modalities, on an untouched nnU-Net v2.

One convention carries the package: an absent channel is NaN, from the preprocessor to the network's first line.
"""

from pathlib import Path

if not (Path(__file__).parent / "architectures").is_dir():
    # In a checkout the subpackages `architectures` and `trainers` lie beside this folder; once installed, inside it.
    __path__.append(str(Path(__file__).parent.parent))
