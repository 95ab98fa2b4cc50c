"""An ordinary network as an ONNX file, checked with ONNX Runtime."""

import importlib.util
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.onnx.errors import OnnxExporterError

from nnunet_moe.errors import ModelError, SettingsError
from nnunet_moe.labels.label_sets import OUTSIDE

TOLERANCE = 1e-4
"""Between the logits of ONNX Runtime and of PyTorch in single precision, of the largest of them or of 1."""
INPUT, OUTPUT = "image", "logits"
AXES = "zyx"
WITHOUT = "Predict with the trained model itself, or export it without --onnx if it becomes an ordinary nnU-Net."
PACKAGES = ("onnx", "onnx_ir", "onnxscript", "onnxruntime")


def require_onnx() -> None:
    """Make sure that the packages of the extra `onnx` are installed.

    Raises:
        SettingsError: one is not.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(f"--onnx needs {', '.join(missing)}. Install them: pip install {' '.join(missing)}.")


def write_onnx(
    network: nn.Module, file: Path, num_channels: int, divisors: Sequence[int] | None, patch_size: Sequence[int]
) -> bool:
    """Write a network whose input `image` `(batch, C, *space)` gives `logits` `(batch, classes or regions, *space)`.

    The batch may have any size. So may the space, in multiples of the divisors, unless PyTorch cannot express the
    network so; then it is the patch.

    Args:
        network: in evaluation, on the CPU, in single precision.
        file: to write; it holds the weights.
        num_channels: C.
        divisors: the product of all strides, for each axis; None if the network is for the patch alone.
        patch_size: that of the plans, in voxels.

    Returns:
        Whether the space may have any size.

    Raises:
        ModelError: PyTorch cannot write it, or ONNX Runtime does not compute what PyTorch does.
    """
    if divisors is None:
        _write(network, file, num_channels, [tuple(patch_size)], {})
        return False
    names = AXES[-len(divisors) :]
    space = {
        axis: n * Dim(name) if n > 1 else Dim(name)
        for axis, (name, n) in enumerate(zip(names, divisors, strict=True), 2)
    }
    sizes = [tuple(n * times for n, times in zip(divisors, counts, strict=False)) for counts in ((2, 3, 4), (3, 2, 2))]
    try:
        _write(network, file, num_channels, sizes, space)
        return True
    except ModelError:
        _write(network, file, num_channels, [tuple(patch_size)], {})
        return False


def _write(
    network: nn.Module, file: Path, num_channels: int, sizes: Sequence[Sequence[int]], space: dict[int, Any]
) -> None:
    """Write a network for any batch and for the sizes that `space` allows, and compare it for the sizes given."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")  # of PyTorch about itself
        try:
            program = torch.onnx.export(
                network,
                (_image(2, num_channels, sizes[0]),),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: Dim("batch"), **space},),
                verbose=False,
            )
        except OnnxExporterError as error:
            raise ModelError(f"PyTorch cannot write {type(network).__name__} as ONNX. {WITHOUT}") from error
    assert program is not None
    ClearMetadataAndDocStringPass()(program.model)  # it has the paths of Python's files on this machine
    program.save(str(file), external_data=False)
    for size in sizes:
        for batch in (1, 3):
            _require_equal(network, file, _image(batch, num_channels, size))


def _image(batch: int, num_channels: int, size: Sequence[int]) -> Tensor:
    return torch.randn(batch, num_channels, *size, generator=torch.Generator().manual_seed(0))


def _require_equal(network: nn.Module, file: Path, image: Tensor) -> None:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        got = torch.from_numpy(session.run([OUTPUT], {INPUT: image.numpy()})[0])
    except Exception as error:  # its own, which have no common base
        raise ModelError(f"ONNX Runtime cannot run {type(network).__name__}: {error}. {WITHOUT}") from error
    with torch.inference_mode():
        expected = network(image)
    difference = float((got - expected).abs().max() / expected[expected != OUTSIDE].abs().max().clamp_min(1))
    if not difference <= TOLERANCE:
        raise ModelError(
            f"ONNX Runtime's logits of {tuple(image.shape)} differ from PyTorch's by {difference:.1e} of the largest. "
            f"{WITHOUT}"
        )
