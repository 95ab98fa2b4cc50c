"""The base class of layers that depend on the modality code."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nnunet_moe.modalities.codes import Code


@dataclass(frozen=True)
class CodeInput:
    """The input of all code-dependent layers of a network in one forward pass."""

    code: Tensor
    """The codes with their noise, `(B, K)`, or `(1, K)` for one code of the whole batch."""
    key: Code | None = None
    """The one code of the whole batch without noise, by which kernels are cached; None to cache none."""


class CodeLayer(nn.Module, ABC):
    """A layer that becomes one of nnU-Net's layers when the code is fixed.

    The network sets `code_input` before each forward pass.
    """

    code_input: CodeInput | None
    """The codes of the current batch; None until the network sets it."""

    def __init__(self) -> None:
        super().__init__()
        self.code_input = None

    @abstractmethod
    def fixed_state(self, code: Tensor) -> dict[str, Tensor]:
        """Compute the weights of the ordinary layer that computes the same for one code.

        Args:
            code: `(1, K)`.

        Returns:
            Name -> tensor, for the ordinary layer's `load_state_dict`.
        """

    @abstractmethod
    def code_parameters(self) -> list[Tensor]:
        """List the parameters that only make the layer depend on the code."""

    def require_code(self) -> CodeInput:
        """Return the codes of the current batch.

        Raises:
            RuntimeError: no network has set `code_input`.
        """
        if self.code_input is None:
            raise RuntimeError(f"{type(self).__name__} has no modality code. It only works inside a ModalityNetwork.")
        return self.code_input


def full_precision(code: Tensor) -> torch.autocast:
    """Return a context without mixed precision, for what is computed from a code."""
    return torch.autocast(code.device.type, enabled=False)
