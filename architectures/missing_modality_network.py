"""The base class of all networks of this package; missing channels are NaN in their input."""

from collections.abc import Callable, Hashable, Sequence
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_moe.architectures.upcycling import UpcyclingSource, nothing_to_upcycle
from nnunet_moe.errors import ModelError
from nnunet_moe.labels.label_sets import covered, restricted
from nnunet_moe.modalities.codes import Code, all_codes, available_modalities, present_channels
from nnunet_moe.runtime.precision import CpuPrecision, is_used
from nnunet_moe.settings.base import Settings

T = TypeVar("T")

Logits = Tensor | list[Tensor]
"""Logits: one tensor, or one per resolution under deep supervision."""


class MissingModalityNetwork(nn.Module):
    """The base class of networks that read from the NaNs in their input which modalities are missing.

    Args:
        network: the network that nnU-Net built from the plans; its encoder and decoder are used.
        num_modalities: K, the number of image channels, 1 to 12. Further input channels (a cascade's previous
            segmentation) follow them.
        settings: `modality_code`, `label_sets` and `predict_all_labels` are used.

    Raises:
        ModelError: the network has no encoder and decoder, so nnU-Net did not plan it.
        ModalityError: K is out of range.
    """

    knows_missing_modalities: ClassVar[bool] = True
    """Whether the network reads from the NaNs in its input which modalities are missing."""
    becomes_planned: ClassVar[bool] = False
    """Whether `fixed` returns one of nnU-Net's own networks."""
    takes_one_image_type: ClassVar[bool] = False
    """Whether each case must have exactly one modality."""
    takes_any_space: ClassVar[bool] = True
    """Whether the input can be of other sizes than the planned patch, if they are multiples of the strides."""

    codes: Tensor
    """`(2^K - 1, K)` bool, all non-empty codes."""
    dedicated_code: Tensor | None
    """`(K,)` bool, the modalities that a dedicated network uses; None for all modalities."""
    label_sets: Tensor | None
    """`(K, C)` bool, the outputs that may be predicted if a modality is available; None for all outputs."""

    def __init__(self, network: nn.Module, *, num_modalities: int, settings: Settings) -> None:
        super().__init__()
        if not (isinstance(getattr(network, "encoder", None), nn.Module) and hasattr(network, "decoder")):
            raise ModelError(
                f"{type(network).__name__} has no encoder and decoder. Networks that nnU-Net plans have both "
                "(PlainConvUNet, ResidualEncoderUNet). Write one of these into 'architecture' in the plans."
            )
        self.num_modalities = num_modalities
        self.register_buffer("codes", torch.tensor(all_codes(num_modalities)), persistent=False)
        dedicated = None if settings.modality_code is None else torch.tensor(settings.modality_code, dtype=torch.bool)
        self.register_buffer("dedicated_code", dedicated, persistent=False)
        has_sets = settings.label_sets is not None and not settings.predict_all_labels
        label_sets = torch.tensor(settings.label_sets, dtype=torch.bool) if has_sets else None
        self.register_buffer("label_sets", label_sets, persistent=False)
        self.keep_buffers_from_ddp()
        self.cpu_precision = CpuPrecision()
        self.encoder = network.get_submodule("encoder")
        self.decoder = network.get_submodule("decoder")

    def keep_buffers_from_ddp(self, *, recurse: bool = False) -> None:
        """Exclude the buffers from DistributedDataParallel.

        It would broadcast them at every forward pass, and wait for all processes.

        Args:
            recurse: whether to exclude the buffers of the layers, too; they must never change.
        """
        names = [name for name, _ in self.named_buffers(recurse=recurse)]
        names += [f"_orig_mod.{name}" for name in names]  # nnU-Net compiles the network before it wraps it
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, names)

    @staticmethod
    def encoder_channels(num_input_channels: int, num_modalities: int) -> int:
        """Return the number of input channels with which the planned network must be built.

        Args:
            num_input_channels: the number that nnU-Net would use.
            num_modalities: K.
        """
        return num_input_channels

    def require_segmentation(self) -> None:
        """Make sure that the logits are a segmentation.

        Raises:
            ModelError: the network was trained for something else.
        """

    def takes(self, code: Code) -> bool:
        """Return whether the network accepts cases with exactly these modalities, or reduced to them.

        Args:
            code: K bools.
        """
        if self.dedicated_code is not None:
            return tuple(self.dedicated_code.tolist()) == code
        return sum(code) == 1 or not self.takes_one_image_type

    def of_code(self, x: Tensor, code: Code) -> Logits:
        """Compute the logits of a batch that contains only the modalities of a code.

        Args:
            x: `(B, C', *space)`, the channels of these modalities, then any channels after the modalities.
            code: K bools, at least one true.

        Returns:
            `(B, classes or regions, *space)`, or a list from full to lowest resolution under deep supervision.
        """
        num_channels = x.shape[1] + self.num_modalities - sum(code)
        complete = x.new_full((x.shape[0], num_channels, *x.shape[2:]), torch.nan)
        complete[:, present_channels(num_channels, code)] = x
        return self(complete)

    def fixed(self, code: Code, planned: Callable[[], nn.Module]) -> nn.Module:
        """Return the network for one fixed code, in evaluation mode; its input has only the channels of the code.

        Args:
            code: K bools, at least one true.
            planned: builds the network that nnU-Net plans for these channels; used only if `becomes_planned`.

        Raises:
            ModelError: the planned network cannot compute the same as this one.
        """
        return FixedCode(self, code).eval()

    def gate_table(self, codes: Sequence[Code]) -> dict[str, Tensor]:
        """Return the weights of the experts for each code, without noise.

        Args:
            codes: K bools each.

        Returns:
            Name of a layer -> weights `(codes, E)`, rows summing to 1; empty if no gates depend on the code.
        """
        return {}

    def upcycled(
        self, source: UpcyclingSource, modalities: Sequence[str], *, noise: float, like: str | None
    ) -> dict[str, Tensor]:
        """Return a state of this network with the weights of a network that has fewer experts or none.

        This network is not changed.

        Args:
            source: the weights of the other network.
            modalities: K names in channel order.
            noise: SD of the noise that is added to each copied expert, as a fraction of the SD of the copied tensor. It
                is drawn from torch's global generator.
            like: the image type whose experts are copied for new image types.

        Raises:
            ModelError: the networks do not fit, or there is nothing to upcycle.
            SettingsError: `like` is given, but experts do not belong to image types; or `channels` of the source is
                given, but modalities do not belong to input channels.
        """
        raise nothing_to_upcycle(self)

    def available(self, x: Tensor) -> Tensor:
        """Return the modalities that the network uses of a batch.

        Args:
            x: `(B, C, *space)`, missing channels NaN.

        Returns:
            `(B, K)` bool.
        """
        available = available_modalities(x[:, : self.num_modalities])
        return available if self.dedicated_code is None else available & self.dedicated_code

    def in_cpu_precision(self, compute: Callable[[], T], x: Tensor, available: Tensor) -> T:
        """Run the network on a CPU in bfloat16 where that is right, on other devices as it is.

        float64 stays float64. In a compiled graph on a CPU, the network computes in float32, because nothing can be
        checked there.

        Args:
            compute: runs the network.
            x: `(B, C, *space)`, the network's input.
            available: `(B, K)` bool; the shapes inside the network depend on it.
        """
        if x.device.type != "cpu" or x.dtype == torch.float64 or torch.compiler.is_compiling():
            return compute()
        situation = (len(x), x.dtype, self.training, self.shapes_depend_on(available))
        return self.cpu_precision.run(compute, tuple(x.shape[2:]), situation)

    def computes_in_bfloat16(self, image: Tensor) -> bool:
        """Return whether the network, in evaluation mode on a CPU, computes images like this one in bfloat16.

        Args:
            image: `(1, C, *space)` with modalities that the network takes. The network runs on it once or twice.
        """
        if image.device.type != "cpu" or not is_used():
            return False
        with torch.inference_mode():
            self.eval()(image)
        return tuple(image.shape[2:]) not in self.cpu_precision.notes

    def shapes_depend_on(self, available: Tensor) -> Hashable:
        """Return all of a batch's modalities on which the shapes inside the network depend on a CPU.

        Args:
            available: `(B, K)` bool.
        """
        is_one_code = bool((available == available[:1]).all())
        return int(available[0].sum()) if is_one_code else "several codes"

    def decode(self, skips: list[Tensor], x: Tensor, available: Tensor) -> Logits:
        """Run nnU-Net's decoder; except in training, outputs outside the label sets cannot be predicted.

        Args:
            skips: a feature map `(B, C_stage, *space_stage)` for each stage, the finest first.
            x: the network's input. On CPUs the logits get its precision, in which nnU-Net adds and resamples them.
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
    """A wrapper that fixes the code of a network, used if no network of nnU-Net can compute the same.

    Args:
        network: the network in evaluation mode; it is kept, not copied.
        code: K bools, at least one true.
    """

    def __init__(self, network: MissingModalityNetwork, code: Code) -> None:
        super().__init__()
        self.network = network
        self.code = code

    def forward(self, image: Tensor) -> Logits:
        """Compute logits `(B, classes or regions, *space)` of the code's channels `(B, C, *space)`."""
        return self.network.of_code(image, self.code)
