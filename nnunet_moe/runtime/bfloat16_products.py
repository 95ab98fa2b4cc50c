"""Check that a CPU computes convolutions and matrix products correctly in bfloat16.

With some versions of torch, processors with AMX or AVX512-BF16 return garbage for some sizes. An example is a
convolution with stride 2 whose output has size 1 in its last axis (PyTorch issue 169688). So each product is computed
once with numbers for which its result is known exactly.

All factors are 1 or -1. A sum of up to 2^24 such products is exact in single precision, in any order of summation.
Therefore a correct result in bfloat16 differs from it only by the final rounding, and weights and images of the network
cannot hide a fault.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode

ROUNDING = 2.0**-8
"""The largest relative error when a number is rounded to bfloat16, which has 8 significant bits."""
TRIES = 3
"""How often a small product is computed, because some faults read memory that was never written.

Large tensors are not computed again, because the system gives them new memory, which is zero.
"""
LARGE = 2**20
"""The number of values of a large tensor."""
BLOCK = 2**16 + 1
"""The number of random signs that large tensors repeat; a prime number, so that no axis has this period."""
PRODUCTS = (
    F.conv2d,
    F.conv3d,
    F.conv_transpose2d,
    F.conv_transpose3d,
    F.linear,
    torch.bmm,
    torch.matmul,
    Tensor.matmul,
    Tensor.__matmul__,
)
"""The functions of torch that autocast computes in bfloat16, apart from attention."""


class Shape(NamedTuple):
    """The place of a tensor among the arguments of a function."""

    sizes: tuple[int, ...]


class Product(NamedTuple):
    """A call of one of `PRODUCTS`: its arguments, with the shapes in the places of the tensors."""

    function: Callable[..., Tensor]
    args: tuple[Hashable, ...]
    options: tuple[tuple[str, Hashable], ...]

    def __str__(self) -> str:
        """Describe it with the shapes of its tensors and with its other arguments."""
        given = [*self.args, *(f"{name}={value}" for name, value in self.options)]
        words = [" x ".join(map(str, each.sizes)) if isinstance(each, Shape) else str(each) for each in given]
        return f"{self.function.__name__}({', '.join(words)})"


class Observed(TorchFunctionMode):
    """Inside this context, collect the products that autocast computes in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.products: dict[Product, None] = {}
        """The products, in the order of their first calls."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the function, and note it if it is a product."""
        kwargs = kwargs or {}
        if func in PRODUCTS and torch.is_autocast_enabled("cpu") and args[0].dtype in (torch.float32, torch.bfloat16):
            options = tuple((name, _form(value)) for name, value in kwargs.items())
            self.products[Product(func, tuple(map(_form, args)), options)] = None
        return func(*args, **kwargs)


def wrong_products(products: Sequence[Product], *, with_gradients: bool) -> list[Product]:
    """Return the products that this CPU computes wrongly in bfloat16. Each one is checked once per process.

    Args:
        products: the products of a network's forward pass.
        with_gradients: whether the gradients by all factors must be right, too.
    """
    threads = torch.get_num_threads()  # torch chooses algorithms by this number
    with torch.inference_mode(mode=False), torch.set_grad_enabled(with_gradients), torch.autocast("cpu", enabled=False):
        return [each for each in products if not _is_right(each, with_gradients, threads)]


@cache
def _is_right(product: Product, with_gradients: bool, threads: int) -> bool:
    expected = _results(product, torch.float32, with_gradients)
    is_large = max(map(torch.numel, expected)) > LARGE
    return all(
        _is_close(found, wanted)
        for _ in range(1 if is_large else TRIES)
        for found, wanted in zip(_results(product, torch.bfloat16, with_gradients), expected, strict=True)
    )


def _is_close(found: Tensor, wanted: Tensor) -> bool:
    pieces = zip(found.flatten().split(BLOCK), wanted.flatten().split(BLOCK), strict=True)  # they stay in the cache
    return all(bool(((got - right).abs() <= ROUNDING * right.abs()).all()) for got, right in pieces)  # false for NaN


def _results(product: Product, dtype: torch.dtype, with_gradients: bool) -> list[Tensor]:
    """Compute a product of factors 1 and -1, and if wanted its gradients by them."""
    factors: list[Tensor] = []

    def filled(form: Hashable) -> Any:
        if not isinstance(form, Shape):
            return form
        factors.append(_signs(form.sizes, len(factors), dtype).requires_grad_(with_gradients))
        return factors[-1]

    args = [filled(form) for form in product.args]
    options = {name: filled(form) for name, form in product.options}
    _leave_nan_in_freed_memory()
    output = product.function(*args, **options)
    if not with_gradients:
        return [output]
    upstream = _signs(output.shape, len(factors), dtype)
    _leave_nan_in_freed_memory()
    return [output.detach(), *torch.autograd.grad(output, factors, upstream)]


def _signs(sizes: Sequence[int], seed: int, dtype: torch.dtype) -> Tensor:
    """Draw a tensor of 1 and -1. Large ones repeat a block, because drawing each number would take long."""
    count = math.prod(sizes)
    generator = torch.Generator().manual_seed(seed)
    block = torch.randint(0, 2, (min(count, BLOCK),), generator=generator, dtype=torch.int8).to(dtype) * 2 - 1
    signs = torch.empty(count, dtype=dtype)
    for piece in signs.split(BLOCK):
        piece.copy_(block[: len(piece)])
    return signs.reshape(tuple(sizes))


def _leave_nan_in_freed_memory() -> None:
    """Write NaN into memory that the next computation may get, so that reading it shows in the result."""
    junk = [torch.full((4**power,), torch.nan) for power in range(3, 12) for _ in range(3)]
    del junk


def _form(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return Shape(tuple(value.shape))
    return tuple(value) if isinstance(value, list) else value
