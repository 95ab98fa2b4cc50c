"""A planned network whose convolutions may depend on the modality code."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from nnunet_moe.architectures.code_conv import CodeConv, CodeInput
from nnunet_moe.architectures.fixed_code import load_fixed
from nnunet_moe.architectures.missing_modality_network import Logits, MissingModalityNetwork
from nnunet_moe.architectures.moe_conv import MoEConv
from nnunet_moe.architectures.placement import place_code_convolutions
from nnunet_moe.architectures.upcycling import UpcyclingSource, upcycled_weights
from nnunet_moe.errors import SettingsError
from nnunet_moe.modalities.codes import Code, zero_absent
from nnunet_moe.runtime.precision import cpu_autocast
from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.moesd import ExpertSettings


class ModalityNetwork(MissingModalityNetwork):
    """An encoder and a decoder as nnU-Net planned them, with absent channels as NaN in the input.

    The names of the parameters are those of the planned network, except inside mixtures: without mixtures, weights of
    an ordinary nnU-Net fit as they are.

    Args:
        network: what nnU-Net built from the plans; its encoder and decoder are taken over and changed in place.
        num_modalities: K, the image channels; further input channels (a cascade's previous segmentation) pass.
        settings: `ExpertSettings` say which convolutions depend on the code, and how; with others none does.

    Raises:
        ModelError: the network is none of those that nnU-Net plans.
        ModalityError: K is out of range.
    """

    becomes_planned: ClassVar[bool] = True

    code_convolutions: tuple[CodeConv, ...]
    """The layers that depend on the code; a tuple, so that they are not registered a second time."""

    def __init__(self, network: nn.Module, *, num_modalities: int, settings: Settings) -> None:
        super().__init__(network, num_modalities=num_modalities, settings=settings)
        self.code_noise_sd, self.code_convolutions = 0.0, ()
        if isinstance(settings, ExpertSettings):
            self.code_noise_sd = settings.code_noise_sd
            self.code_convolutions = tuple(place_code_convolutions(network, settings, num_modalities=num_modalities))

    @property
    def mixtures(self) -> tuple[MoEConv, ...]:
        """The layers that are mixtures of experts, if there are any."""
        return tuple(layer for layer in self.code_convolutions if isinstance(layer, MoEConv))

    def gates_of_codes(self) -> list[Tensor]:
        """phi of every mixture for every code, without noise: tensors `(2^K - 1, E)`."""
        return [mixture.gates(self.codes) for mixture in self.mixtures]

    def gate_table(self, codes: Sequence[Code]) -> dict[str, Tensor]:
        """Mixture -> the weights of its experts `(codes, E)`, without noise."""
        chosen = torch.tensor(codes, device=self.codes.device)
        names = {module: name for name, module in self.named_modules()}
        with torch.no_grad():
            return {names[mixture]: mixture.gates(chosen) for mixture in self.mixtures}

    def fixed(self, code: Code, planned: Callable[[], nn.Module]) -> nn.Module:
        """What nnU-Net plans, with the weights that make it the same function.

        Raises:
            ModelError: the networks differ in more than convolutions that depend on the code and the input channels of
                missing modalities.
        """
        network = planned().eval()
        load_fixed(network, self, code)
        return network

    def upcycled(
        self, source: UpcyclingSource, modalities: Sequence[str], *, noise: float, like: str | None
    ) -> dict[str, Tensor]:
        """The state of this network with an ordinary one's weights put in: each expert is a copy plus noise.

        Raises:
            ModelError: the networks do not fit, or there is nothing to upcycle.
            SettingsError: `like` is given.
        """
        if like is not None:
            raise SettingsError(
                f"-like {like} is for M4oE, whose experts are of image types; this trainer has others. Leave it out."
            )
        return upcycled_weights(source, self, noise)

    def forward(self, x: Tensor) -> Logits:
        """Logits of a batch whose absent channels are NaN.

        Args:
            x: `(B, C, *space)`, the K image channels first. The items may have different codes.

        Returns:
            `(B, classes or regions, *space)`, or a list from full to lowest resolution under deep supervision.
        """
        available = self.available(x)
        if self.code_convolutions:
            code_input = self._code_input(available, x.dtype)
            for layer in self.code_convolutions:
                layer.code_input = code_input
        with cpu_autocast(x.device):
            return self.decode(self.encoder(zero_absent(x, available)), x, available)

    def _code_input(self, available: Tensor, dtype: torch.dtype) -> CodeInput:
        code = available.to(dtype)
        if self.training:
            return CodeInput(code + self.code_noise_sd * torch.randn_like(code))
        if torch.compiler.is_compiling() or not (available == available[0]).all():
            return CodeInput(code)  # a compiled graph cannot ask what the code is
        return CodeInput(code[:1], key=tuple(available[0].tolist()))
