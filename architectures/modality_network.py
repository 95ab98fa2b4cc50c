"""A planned network whose convolutions may depend on the modality code."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from nnunet_moe.architectures.code_layer import CodeInput, CodeLayer
from nnunet_moe.architectures.fixed_code import load_fixed
from nnunet_moe.architectures.missing_modality_network import Logits, MissingModalityNetwork
from nnunet_moe.architectures.moe_conv import MoEConv
from nnunet_moe.architectures.placement import place_code_convolutions, place_code_norms
from nnunet_moe.architectures.upcycling import UpcyclingSource, upcycled_weights
from nnunet_moe.errors import SettingsError
from nnunet_moe.modalities.codes import Code, zero_absent
from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.moesd import ExpertSettings
from nnunet_moe.settings.two_views import TwoViewsSettings


class ModalityNetwork(MissingModalityNetwork):
    """nnU-Net's planned network, in which convolutions and norms may depend on the modality code.

    Missing channels are NaN in the input. Except inside mixtures, the parameters have the names of the planned network.
    Therefore, without mixtures the weights of an ordinary nnU-Net fit.

    Source: Novosad, Carano, Krishnan, MICCAI 2024, eq. 3 and fig. 1.

    Args:
        network: the network that nnU-Net built from the plans; its encoder and decoder are used and changed in place.
        num_modalities: K, the number of image channels, 1 to 12. Further input channels (a cascade's previous
            segmentation) are used unchanged.
        settings: `TwoViewsSettings` and their subclasses choose the layers that depend on the code. With other settings
            none does.

    Raises:
        ModelError: the network is not one that nnU-Net plans.
        ModalityError: K is out of range.
    """

    becomes_planned: ClassVar[bool] = True

    code_layers: tuple[CodeLayer, ...]
    """The layers that depend on the code; a tuple, so that torch does not register them a second time."""

    def __init__(self, network: nn.Module, *, num_modalities: int, settings: Settings) -> None:
        super().__init__(network, num_modalities=num_modalities, settings=settings)
        self.code_noise_sd = settings.code_noise_sd if isinstance(settings, ExpertSettings) else 0.0
        self.code_layers = ()
        if isinstance(settings, TwoViewsSettings):
            self.code_layers += tuple(place_code_convolutions(network, settings, num_modalities=num_modalities))
            if settings.norm_by_code:
                self.code_layers += tuple(place_code_norms(network, num_modalities=num_modalities))

    @property
    def mixtures(self) -> tuple[MoEConv, ...]:
        """The layers that are mixtures of experts; empty if there are none."""
        return tuple(layer for layer in self.code_layers if isinstance(layer, MoEConv))

    def gates_of_codes(self) -> list[Tensor]:
        """Compute the gate weights phi of each mixture for all codes, without noise: tensors `(2^K - 1, E)`."""
        return [mixture.gates(self.codes) for mixture in self.mixtures]

    def gate_table(self, codes: Sequence[Code]) -> dict[str, Tensor]:
        """Return the weights of each mixture's experts, without noise; see the base class."""
        chosen = torch.tensor(codes, device=self.codes.device)
        names = {module: name for name, module in self.named_modules()}
        with torch.no_grad():
            return {names[mixture]: mixture.gates(chosen) for mixture in self.mixtures}

    def fixed(self, code: Code, planned: Callable[[], nn.Module]) -> nn.Module:
        """Return the network that nnU-Net plans for the code, with weights that make it the same function.

        Args:
            code: K bools, at least one true.
            planned: builds the network that nnU-Net plans for the channels of the code.

        Raises:
            ModelError: the networks differ in more than code-dependent convolutions and the input channels of missing
                modalities.
        """
        network = planned().eval()
        load_fixed(network, self, code)
        return network

    def upcycled(
        self, source: UpcyclingSource, modalities: Sequence[str], *, noise: float, like: str | None
    ) -> dict[str, Tensor]:
        """Return a state of this network with the weights of an ordinary one: each expert is a copy plus noise.

        The stem takes the weights of each modality from the channel that `channel_places` names. The arguments are
        those of the base class.

        Raises:
            ModelError: the networks do not fit, or there is nothing to upcycle.
            SettingsError: `like` is given, or `channels` of the source names what does not exist.
        """
        if like is not None:
            raise SettingsError(
                f"-like {like} is only for M4oE, where each expert belongs to an image type. This trainer has other "
                "experts. Remove -like."
            )
        return upcycled_weights(source, self, modalities, noise)

    def forward(self, x: Tensor) -> Logits:
        """Compute the logits of a batch.

        Args:
            x: `(B, C, *space)`, the K image channels first; missing channels are NaN. Items may differ in their codes.

        Returns:
            `(B, classes or regions, *space)`, or a list from full to lowest resolution under deep supervision.
        """
        available = self.available(x)
        if self.code_layers:
            code_input = self._code_input(available, x.dtype)
            for layer in self.code_layers:
                layer.code_input = code_input
        return self.in_cpu_precision(
            lambda: self.decode(self.encoder(zero_absent(x, available)), x, available), x, available
        )

    def _code_input(self, available: Tensor, dtype: torch.dtype) -> CodeInput:
        code = available.to(dtype)
        if self.training:
            return CodeInput(code + self.code_noise_sd * torch.randn_like(code))
        if torch.compiler.is_compiling():
            return CodeInput(code)  # a compiled graph cannot depend on the value of the code
        codes = available.tolist()  # the only wait for a GPU
        return CodeInput(code) if any(each != codes[0] for each in codes) else CodeInput(code[:1], key=tuple(codes[0]))
