"""Segmentation with any subset of the modalities, as an extension of nnU-Net v2.

The whole package follows one convention: from the preprocessor to the first line of the network's `forward`, a missing
channel is NaN.
"""

from pathlib import Path

if not (Path(__file__).parent / "architectures").is_dir():
    # In a checkout, the subpackages `architectures` and `trainers` are next to this folder. In a wheel, they are in it.
    __path__.append(str(Path(__file__).parent.parent))

__version__: str


def __getattr__(name: str) -> str:
    """Look up `__version__` on first use, because importing the package must stay cheap."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    from nnunet_moe.runtime.environment import own_version

    return own_version()
