"""A planned network that reads the modality code from its input's NaNs."""

import torch
from torch import Tensor, nn

from nnunet_moe.architectures.moe_conv import GateInput, MoEConv
from nnunet_moe.architectures.placement import place_experts
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
        settings: `placement`, `num_experts` and `code_noise_sd` are used.

    Raises:
        ModelError: the network is none of those that nnU-Net plans.
        ModalityError: K is out of range.
    """

    codes: Tensor
    """`(2^K - 1, K)` bool, every non-empty code."""
    mixtures: tuple[MoEConv, ...]
    """The layers that are mixtures of experts; a tuple, so that they are not registered a second time."""

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
        self.mixtures = tuple(
            place_experts(network, settings.placement, num_experts=settings.num_experts, num_modalities=num_modalities)
        )
        self.encoder = network.get_submodule("encoder")
        self.decoder = network.get_submodule("decoder")

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits of a batch whose absent channels are NaN.

        Args:
            x: `(B, C, *space)`, the K image channels first. The items may have different codes.

        Returns:
            `(B, classes or regions, *space)`, or a list from full to lowest resolution under deep supervision.
        """
        available = available_modalities(x[:, : self.num_modalities])
        if self.mixtures:
            gate_input = self._gate_input(available, x.dtype)
            for mixture in self.mixtures:
                mixture.gate_input = gate_input
        with cpu_autocast(x.device):
            logits = self.decoder(self.encoder(zero_absent(x, available)))
        if x.device.type == "cpu":  # nnU-Net adds up and resamples in single precision there
            logits = [level.to(x.dtype) for level in logits] if isinstance(logits, list) else logits.to(x.dtype)
        return logits

    def gates_of_codes(self) -> list[Tensor]:
        """phi of every layer for every code, without noise: tensors `(2^K - 1, E)`."""
        return [mixture.gates(self.codes) for mixture in self.mixtures]

    def _gate_input(self, available: Tensor, dtype: torch.dtype) -> GateInput:
        code = available.to(dtype)
        if self.training:
            return GateInput(code + self.code_noise_sd * torch.randn_like(code))
        if torch.compiler.is_compiling() or not (available == available[0]).all():
            return GateInput(code)  # a compiled graph cannot ask what the code is
        return GateInput(code[:1], key=tuple(available[0].tolist()))
