"""A planned network that reads the modality code from its input's NaNs."""

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_moe.architectures.code_conv import CodeConv, CodeInput
from nnunet_moe.architectures.moe_conv import MoEConv
from nnunet_moe.architectures.placement import place_code_convolutions
from nnunet_moe.codes import all_codes, available_modalities, zero_absent
from nnunet_moe.errors import ModelError
from nnunet_moe.precision import cpu_autocast
from nnunet_moe.settings import Settings


class ModalityNetwork(nn.Module):
    """An encoder and a decoder as nnU-Net planned them, with absent channels as NaN in the input.

    The names of the parameters are those of the planned network, except inside mixtures: without mixtures, weights of
    an ordinary nnU-Net fit as they are.

    Args:
        network: what nnU-Net built from the plans; its encoder and decoder are taken over and changed in place.
        num_modalities: K, the image channels; further input channels (a cascade's previous segmentation) pass.
        settings: `placement`, `conditioning`, `num_experts`, `code_noise_sd` and `modality_code` are used.

    Raises:
        ModelError: the network is none of those that nnU-Net plans.
        ModalityError: K is out of range.
    """

    codes: Tensor
    """`(2^K - 1, K)` bool, every non-empty code."""
    dedicated_code: Tensor | None
    """`(K,)` bool, the only modalities that a dedicated network looks at; None if it looks at all."""
    code_convolutions: tuple[CodeConv, ...]
    """The layers that depend on the code; a tuple, so that they are not registered a second time."""

    def __init__(self, network: nn.Module, *, num_modalities: int, settings: Settings) -> None:
        super().__init__()
        if not (isinstance(getattr(network, "encoder", None), nn.Module) and hasattr(network, "decoder")):
            raise ModelError(
                f"{type(network).__name__} has no encoder and decoder. Use a network that nnU-Net plans "
                "(PlainConvUNet, ResidualEncoderUNet) in the plans' 'architecture'."
            )
        self.num_modalities = num_modalities
        self.code_noise_sd = settings.code_noise_sd
        self.register_buffer("codes", torch.tensor(all_codes(num_modalities)), persistent=False)
        dedicated = None if settings.modality_code is None else torch.tensor(settings.modality_code, dtype=torch.bool)
        self.register_buffer("dedicated_code", dedicated, persistent=False)
        # constants: DistributedDataParallel would broadcast them at every forward pass, and wait for all processes
        constants = [name for name, _ in self.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, constants)
        self.code_convolutions = tuple(place_code_convolutions(network, settings, num_modalities=num_modalities))
        self.encoder = network.get_submodule("encoder")
        self.decoder = network.get_submodule("decoder")

    @property
    def mixtures(self) -> tuple[MoEConv, ...]:
        """The layers that are mixtures of experts."""
        return tuple(layer for layer in self.code_convolutions if isinstance(layer, MoEConv))

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits of a batch whose absent channels are NaN.

        Args:
            x: `(B, C, *space)`, the K image channels first. The items may have different codes.

        Returns:
            `(B, classes or regions, *space)`, or a list from full to lowest resolution under deep supervision.
        """
        available = available_modalities(x[:, : self.num_modalities])
        if self.dedicated_code is not None:
            available = available & self.dedicated_code
        if self.code_convolutions:
            code_input = self._code_input(available, x.dtype)
            for layer in self.code_convolutions:
                layer.code_input = code_input
        with cpu_autocast(x.device):
            logits = self.decoder(self.encoder(zero_absent(x, available)))
        if x.device.type == "cpu":  # nnU-Net adds up and resamples in single precision there
            logits = [level.to(x.dtype) for level in logits] if isinstance(logits, list) else logits.to(x.dtype)
        return logits

    def gates_of_codes(self) -> list[Tensor]:
        """phi of every mixture for every code, without noise: tensors `(2^K - 1, E)`."""
        return [mixture.gates(self.codes) for mixture in self.mixtures]

    def _code_input(self, available: Tensor, dtype: torch.dtype) -> CodeInput:
        code = available.to(dtype)
        if self.training:
            return CodeInput(code + self.code_noise_sd * torch.randn_like(code))
        if torch.compiler.is_compiling() or not (available == available[0]).all():
            return CodeInput(code)  # a compiled graph cannot ask what the code is
        return CodeInput(code[:1], key=tuple(available[0].tolist()))
