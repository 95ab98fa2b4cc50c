"""What all networks of this package have in common: absent channels are NaN in their input."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_moe.architectures.upcycling import UpcyclingSource, nothing_to_upcycle
from nnunet_moe.errors import ModelError
from nnunet_moe.labels.label_sets import covered, restricted
from nnunet_moe.modalities.codes import Code, all_codes, available_modalities, present_channels
from nnunet_moe.settings.base import Settings

Logits = Tensor | list[Tensor]
"""Logits: one tensor, or one per resolution under deep supervision."""


class MissingModalityNetwork(nn.Module):
    """The base class: nnU-Net's encoder and decoder, and the modalities that an input's NaNs leave.

    Args:
        network: what nnU-Net built from the plans; its encoder and decoder are taken over.
        num_modalities: K, the image channels; further input channels (a cascade's previous segmentation) follow them.
        settings: `modality_code`, `label_sets` and `predict_all_labels` are used.

    Raises:
        ModelError: the network is none of those that nnU-Net plans.
        ModalityError: K is out of range.
    """

    knows_missing_modalities: ClassVar[bool] = True
    """Whether it reads from the NaNs in its input which modalities are missing."""
    becomes_planned: ClassVar[bool] = False
    """Whether `fixed` gives one of nnU-Net's own networks."""
    takes_one_image_type: ClassVar[bool] = False
    """Whether a case may have one modality alone."""
    takes_any_space: ClassVar[bool] = True
    """Whether it is made for other sizes than the planned patch, too, if its strides divide them."""

    codes: Tensor
    """`(2^K - 1, K)` bool, every non-empty code."""
    dedicated_code: Tensor | None
    """`(K,)` bool, the only modalities that a dedicated network looks at; None if it looks at all."""
    label_sets: Tensor | None
    """`(K, C)` bool, the only outputs that may win where a modality is available; None if all may."""

    def __init__(self, network: nn.Module, *, num_modalities: int, settings: Settings) -> None:
        super().__init__()
        if not (isinstance(getattr(network, "encoder", None), nn.Module) and hasattr(network, "decoder")):
            raise ModelError(
                f"{type(network).__name__} has no encoder and decoder. Use a network that nnU-Net plans "
                "(PlainConvUNet, ResidualEncoderUNet) in the plans' 'architecture'."
            )
        self.num_modalities = num_modalities
        self.register_buffer("codes", torch.tensor(all_codes(num_modalities)), persistent=False)
        dedicated = None if settings.modality_code is None else torch.tensor(settings.modality_code, dtype=torch.bool)
        self.register_buffer("dedicated_code", dedicated, persistent=False)
        has_sets = settings.label_sets is not None and not settings.predict_all_labels
        label_sets = torch.tensor(settings.label_sets, dtype=torch.bool) if has_sets else None
        self.register_buffer("label_sets", label_sets, persistent=False)
        self.keep_buffers_from_ddp()
        self.encoder = network.get_submodule("encoder")
        self.decoder = network.get_submodule("decoder")

    def keep_buffers_from_ddp(self, *, recurse: bool = False) -> None:
        """DistributedDataParallel would broadcast them at every forward pass, and wait for all processes.

        Args:
            recurse: also those of the layers, if they never change.
        """
        names = [name for name, _ in self.named_buffers(recurse=recurse)]
        names += [f"_orig_mod.{name}" for name in names]  # nnU-Net compiles the network before it wraps it
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, names)

    @staticmethod
    def encoder_channels(num_input_channels: int, num_modalities: int) -> int:
        """How many input channels the planned network is to have, where nnU-Net would give it `num_input_channels`."""
        return num_input_channels

    def require_segmentation(self) -> None:
        """Make sure that its logits are a segmentation.

        Raises:
            ModelError: it was trained for something else.
        """

    def takes(self, code: Code) -> bool:
        """Whether it is for cases that have just these modalities, or are reduced to them."""
        if self.dedicated_code is not None:
            return tuple(self.dedicated_code.tolist()) == code
        return sum(code) == 1 or not self.takes_one_image_type

    def of_code(self, x: Tensor, code: Code) -> Logits:
        """Logits of a batch that has the modalities of a code and no others.

        Args:
            x: `(B, C', *space)`, the channels of these modalities, then those beyond the modalities.
            code: K bools, at least one true.
        """
        num_channels = x.shape[1] + self.num_modalities - sum(code)
        complete = x.new_full((x.shape[0], num_channels, *x.shape[2:]), torch.nan)
        complete[:, present_channels(num_channels, code)] = x
        return self(complete)

    def fixed(self, code: Code, planned: Callable[[], nn.Module]) -> nn.Module:
        """The network for one code, in evaluation; its input has the channels that the code leaves.

        Args:
            code: K bools, at least one true.
            planned: builds what nnU-Net plans for these channels; used where `becomes_planned`.

        Raises:
            ModelError: the planned network cannot compute what this one does.
        """
        return FixedCode(self, code).eval()

    def gate_table(self, codes: Sequence[Code]) -> dict[str, Tensor]:
        """Layer -> the weights of its experts `(codes, E)`, without noise; empty if codes decide on no gates."""
        return {}

    def upcycled(
        self, source: UpcyclingSource, modalities: Sequence[str], *, noise: float, like: str | None
    ) -> dict[str, Tensor]:
        """The state of this network, which is not changed, with the weights of one that has fewer experts put in.

        Args:
            source: the other network's weights.
            modalities: K names in channel order.
            noise: SD of what is added to each copied expert, as a fraction of the SD of the copied tensor, drawn from
                torch's global generator.
            like: the image type whose experts those of new image types copy.

        Raises:
            ModelError: the networks do not fit, or there is nothing to upcycle.
            SettingsError: `like` where experts do not belong to image types.
        """
        raise nothing_to_upcycle(self)

    def available(self, x: Tensor) -> Tensor:
        """`(B, K)` bool, the modalities of `x` `(B, C, *space)` that the network looks at."""
        available = available_modalities(x[:, : self.num_modalities])
        return available if self.dedicated_code is None else available & self.dedicated_code

    def decode(self, skips: list[Tensor], x: Tensor, available: Tensor) -> Logits:
        """nnU-Net's decoder on a feature map per stage, the finest first; out of training, within the label sets.

        Args:
            skips: `(B, C_stage, *space_stage)`.
            x: the network's input; on CPUs nnU-Net adds up and resamples logits in its precision.
            available: `(B, K)` bool.

        Returns:
            `(B, classes or regions, *space)`, or a list from full to lowest resolution under deep supervision.
        """
        logits = self.decoder(skips)
        if isinstance(logits, list):
            return [self._output(level, x, available) for level in logits]
        return self._output(logits, x, available)

    def _output(self, logits: Tensor, x: Tensor, available: Tensor) -> Tensor:
        if self.label_sets is not None and not self.training:
            logits = restricted(logits, covered(available, self.label_sets))
        return logits.to(x.dtype) if x.device.type == "cpu" else logits


class FixedCode(nn.Module):
    """A network that takes the modalities of one code, where no network of nnU-Net's can do what it does.

    Args:
        network: in evaluation; it is kept, not copied.
        code: K bools, at least one true.
    """

    def __init__(self, network: MissingModalityNetwork, code: Code) -> None:
        super().__init__()
        self.network = network
        self.code = code

    def forward(self, image: Tensor) -> Logits:
        """`(B, C, *space)`, the channels that the code leaves, to `(B, classes or regions, *space)`."""
        return self.network.of_code(image, self.code)
