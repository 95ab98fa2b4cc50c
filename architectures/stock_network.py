"""An adapter that gives nnU-Net's own networks the methods that the commands call on every network."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from nnunet_moe.architectures.input_channels import channel_places
from nnunet_moe.architectures.missing_modality_network import MissingModalityNetwork
from nnunet_moe.architectures.upcycling import UpcyclingSource, nothing_to_upcycle, upcycled_weights
from nnunet_moe.modalities.codes import Code


class StockNetwork:
    """An adapter for a network that does not know missing modalities; it accepts only complete cases.

    Args:
        network: the network; it is kept, not copied.
    """

    knows_missing_modalities: ClassVar[bool] = False
    takes_one_image_type: ClassVar[bool] = False
    dedicated_code: ClassVar[Tensor | None] = None

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def require_segmentation(self) -> None:
        """Do nothing, because all of nnU-Net's networks are trained to segment."""

    def takes(self, code: Code) -> bool:
        """Return whether the code is that of a complete case."""
        return all(code)

    def computes_in_bfloat16(self, image: Tensor) -> bool:
        """Return False, because nnU-Net computes in float32 on CPUs."""
        return False

    def gate_table(self, codes: Sequence[Code]) -> dict[str, Tensor]:
        """Return an empty table, because there are no gates."""
        return {}

    def upcycled(
        self, source: UpcyclingSource, modalities: Sequence[str], *, noise: float, like: str | None
    ) -> dict[str, Tensor]:
        """Return a state of this network with the weights of a network for other channels.

        The arguments are those of `MissingModalityNetwork.upcycled`. `noise` and `like` are not used, because there are
        no experts.

        Raises:
            ModelError: the networks do not fit, or there is nothing to convert.
            SettingsError: `channels` of the source names a modality or a channel that does not exist.
        """
        if channel_places(source.modalities, modalities, source.channels) == list(range(len(source.modalities))):
            raise nothing_to_upcycle(self.network)
        return upcycled_weights(source, self.network, modalities, noise)


def missing_modality_network(network: nn.Module) -> MissingModalityNetwork | StockNetwork:
    """Return the network if it belongs to this package, else one of nnU-Net's own networks in its adapter."""
    return network if isinstance(network, MissingModalityNetwork) else StockNetwork(network)
