"""nnU-Net's own networks, with what the commands ask of every network."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from nnunet_moe.architectures.missing_modality_network import MissingModalityNetwork
from nnunet_moe.architectures.upcycling import UpcyclingSource, nothing_to_upcycle
from nnunet_moe.modalities.codes import Code


class StockNetwork:
    """An adapter for a network that takes NaN for a value: it is for complete cases only.

    Args:
        network: it is kept, not copied.
    """

    knows_missing_modalities: ClassVar[bool] = False
    takes_one_image_type: ClassVar[bool] = False
    dedicated_code: ClassVar[Tensor | None] = None

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def require_segmentation(self) -> None:
        """All of them are trained to segment."""

    def takes(self, code: Code) -> bool:
        """Whether the code is that of a complete case."""
        return all(code)

    def gate_table(self, codes: Sequence[Code]) -> dict[str, Tensor]:
        """Empty: there are no gates."""
        return {}

    def upcycled(
        self, source: UpcyclingSource, modalities: Sequence[str], *, noise: float, like: str | None
    ) -> dict[str, Tensor]:
        """Refuse.

        Raises:
            ModelError: always; there are no experts.
        """
        raise nothing_to_upcycle(self.network)


def missing_modality_network(network: nn.Module) -> MissingModalityNetwork | StockNetwork:
    """A network as the commands look at it: one of nnU-Net's own in its adapter."""
    return network if isinstance(network, MissingModalityNetwork) else StockNetwork(network)
