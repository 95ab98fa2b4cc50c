"""The feed-forward part of a transformer block as a mixture of experts.

Source: Jiang, Shen, "M4oE: A foundation model for medical multimodal image segmentation with mixture of experts",
MICCAI 2024, eqs. 2 and 3. The output for a token x is sum_e g(x)_e E_e(x), with the gate g(x) = softmax(W x + b) over
the experts.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

Routing = Literal["gate", "image_type", "channel_gate"]


class MoEMLP(nn.Module):
    """A mixture of E experts, one for each image type; an expert is a perceptron of two layers with GELU in between.

    The weights have an additional first axis for the experts: `weight_in` is `(E, hidden, C)`, `bias_in` is
    `(E, hidden)`, `weight_out` is `(E, C, hidden)` and `bias_out` is `(E, C)`.

    There are three types of routing:

    - `gate`: the paper's gate, which weights the experts for each token.
    - `image_type`: each item goes to the expert of its image type, without a gate.
    - `channel_gate`: the gate of the authors' published code. The sum of all experts is multiplied by a softmax over
      the channels, which is the same for all experts.

    Args:
        channels: C.
        hidden: width of each expert's hidden layer.
        num_experts: E.
        routing: `gate`, `image_type` or `channel_gate`.

    Raises:
        ValueError: another routing.
    """

    image_type: Tensor | None = None
    """`(B,)` whole numbers from 0 to E - 1, the image types of the items; set before each forward pass."""
    routes: "Routes | None" = None
    """The items of each expert, which all mixtures of a network share; None to find them from `image_type`."""

    def __init__(self, channels: int, hidden: int, *, num_experts: int, routing: Routing) -> None:
        super().__init__()
        if routing not in get_args(Routing):
            raise ValueError(f"Unknown routing {routing!r}. Allowed are {', '.join(get_args(Routing))}.")
        self.routing: Routing = routing
        self.weight_in = nn.Parameter(torch.empty(num_experts, hidden, channels))
        self.bias_in = nn.Parameter(torch.zeros(num_experts, hidden))
        self.weight_out = nn.Parameter(torch.empty(num_experts, channels, hidden))
        self.bias_out = nn.Parameter(torch.zeros(num_experts, channels))
        self.gate = nn.Linear(channels, channels if routing == "channel_gate" else num_experts)
        for weight in (self.weight_in, self.weight_out, self.gate.weight):
            nn.init.trunc_normal_(weight, std=0.02)
        nn.init.zeros_(self.gate.bias)
        self.gate.requires_grad_(routing != "image_type")

    @property
    def num_experts(self) -> int:
        """E, the number of experts."""
        return self.weight_in.shape[0]

    def gates(self, tokens: Tensor) -> Tensor:
        """Compute g, the weights of the experts.

        Args:
            tokens: `(B, ..., C)`.

        Returns:
            `(B, ..., E)`, summing to 1; `(B, 1, ..., E)` if routing is by image type.

        Raises:
            RuntimeError: routing is by image type, but no network has set `image_type`.
        """
        if self.routing == "image_type":
            of_items = F.one_hot(self._image_types(), self.num_experts).to(tokens.dtype)
            return of_items.unflatten(0, (-1, *[1] * (tokens.ndim - 2)))
        return self.gate(tokens).softmax(dim=-1).to(tokens.dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens `(B, ..., C)` to `(B, ..., C)`."""
        if self.routing == "channel_gate":
            experts = self._mixed(tokens, tokens.new_ones(self.num_experts))
            return self.gate(tokens).softmax(dim=-1).to(experts.dtype) * experts
        if self.routing == "image_type" and not torch.compiler.is_compiling():
            return self._routed(tokens)
        return self._mixed(tokens, self.gates(tokens))

    def _mixed(self, tokens: Tensor, gates: Tensor) -> Tensor:
        """Apply all experts to all tokens, and sum them with weights `(..., E)`."""
        hidden = F.gelu(F.linear(tokens, self.weight_in.flatten(0, 1), self.bias_in.flatten()))
        gates = gates.to(hidden.dtype)
        weighted = (hidden.unflatten(-1, (self.num_experts, -1)) * gates[..., None]).flatten(-2)
        return F.linear(weighted, self.weight_out.transpose(0, 1).flatten(1)) + F.linear(gates, self.bias_out.T)

    def _routed(self, tokens: Tensor) -> Tensor:
        """Apply to each item only the expert of its image type; equal to `_mixed` with weights of 0 and 1."""
        routes, outputs = self.routes or routes_of(self._image_types()), []
        for expert, items in routes.items_of_experts:
            hidden = F.gelu(F.linear(tokens[items], self.weight_in[expert], self.bias_in[expert]))
            outputs.append(F.linear(hidden, self.weight_out[expert], self.bias_out[expert]))
        return torch.cat(outputs)[routes.places]

    def _image_types(self) -> Tensor:
        if self.image_type is None:
            raise RuntimeError(
                "No network has set the image types of the items. Such routing only works inside a SwinUNetwork."
            )
        return self.image_type

    def extra_repr(self) -> str:
        """Describe the layer for `print(network)`."""
        return f"experts x hidden x channels: {', '.join(map(str, self.weight_in.shape))}, routing={self.routing}"


class Routes(NamedTuple):
    """Which items of a batch go to which expert."""

    items_of_experts: list[tuple[int, Tensor]]
    """The experts that have items, each with the positions of its items in the batch."""
    places: Tensor
    """`(B,)`, for each item its position among the items in the order of the experts."""


def routes_of(image_type: Tensor) -> Routes:
    """Return which items go to which expert. On a GPU, the host waits once for the device.

    Args:
        image_type: `(B,)` whole numbers, the image types of the items.
    """
    image_types = image_type.tolist()

    def on_device(values: Iterable[int]) -> Tensor:
        return torch.tensor(list(values)).to(image_type.device, non_blocking=True)

    order = sorted(range(len(image_types)), key=image_types.__getitem__)
    experts = [(expert, [item for item in order if image_types[item] == expert]) for expert in sorted(set(image_types))]
    places = sorted(range(len(order)), key=order.__getitem__)
    return Routes([(expert, on_device(items)) for expert, items in experts], on_device(places))


@contextmanager
def gates_kept(mixtures: Sequence[MoEMLP]) -> Iterator[list[list[Tensor]]]:
    """Record the weights that the gates of mixtures give while a network runs.

    Args:
        mixtures: the mixtures to record.

    Yields:
        For each mixture a list with one entry for each forward pass: the experts' weights `(E,)`, averaged over items
            and tokens.
    """
    kept: list[list[Tensor]] = [[] for _ in mixtures]

    def keep(mixture: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(mixture, MoEMLP)
        weights = mixture.gates(inputs[0]).detach().float()
        kept[mixtures.index(mixture)].append(weights.flatten(0, -2).mean(dim=0))

    hooks = [mixture.register_forward_pre_hook(keep) for mixture in mixtures]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()
