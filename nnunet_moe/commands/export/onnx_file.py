"""Write an ordinary network as an ONNX file, and check the file with ONNX Runtime."""

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
"""Largest allowed difference between the logits of ONNX Runtime and PyTorch in single precision.

It is relative to the largest logit, or to 1 if all are smaller.
"""
INPUT, OUTPUT = "image", "logits"
AXES = "zyx"
WITHOUT = "Predict with the trained model, or export without --onnx if nnU-Net can plan the network."
PACKAGES = ("onnx", "onnx_ir", "onnxscript", "onnxruntime")


def require_onnx() -> None:
    """Make sure that the packages of the extra `onnx` are installed.

    Raises:
        SettingsError: at least one of them is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"--onnx needs missing packages: {', '.join(missing)}. Install them: pip install {' '.join(missing)}."
        )


def write_onnx(
    network: nn.Module, file: Path, num_channels: int, divisors: Sequence[int] | None, patch_size: Sequence[int]
) -> bool:
    """Write a network as an ONNX file, and check it.

    The input is `image` `(batch, C, *space)`, the output `logits` `(batch, classes or regions, *space)`.

    The batch may have any size. Each axis of the space may be any multiple of its divisor. If PyTorch cannot write such
    a network, the space is fixed to the patch size.

    Args:
        network: in evaluation mode, on the CPU, in single precision.
        file: the file to write. It contains the weights.
        num_channels: C.
        divisors: the product of all strides, for each axis; None if the network takes only the patch size.
        patch_size: the patch size of the plans, in voxels.

    Returns:
        Whether the space may have any size.

    Raises:
        ModelError: PyTorch cannot write the network, or the results of ONNX Runtime and PyTorch differ.
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
    """Write a network for any batch and for the sizes that `space` allows, and check it for the given sizes."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")  # PyTorch's warnings about its own code
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
    ClearMetadataAndDocStringPass()(program.model)  # remove the paths of Python's files on this machine
    program.save(str(file), external_data=False)
    _require_equal(network, file, [_image(batch, num_channels, size) for size in sizes for batch in (1, 3)])


def _image(batch: int, num_channels: int, size: Sequence[int]) -> Tensor:
    return torch.randn(batch, num_channels, *size, generator=torch.Generator().manual_seed(0))


def _require_equal(network: nn.Module, file: Path, images: Sequence[Tensor]) -> None:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        results = [torch.from_numpy(session.run([OUTPUT], {INPUT: image.numpy()})[0]) for image in images]
    except Exception as error:  # the errors of ONNX Runtime have no common base class
        raise ModelError(f"ONNX Runtime cannot run {type(network).__name__}: {error}. {WITHOUT}") from error
    for image, got in zip(images, results, strict=True):
        with torch.inference_mode():
            expected = network(image)
        difference = float((got - expected).abs().max() / expected[expected != OUTSIDE].abs().max().clamp_min(1))
        if not difference <= TOLERANCE:
            raise ModelError(
                f"For an image of shape {tuple(image.shape)}, the logits of ONNX Runtime and PyTorch differ by "
                f"{difference:.1e} of the largest logit. At most {TOLERANCE:.0e} is allowed. {WITHOUT}"
            )
