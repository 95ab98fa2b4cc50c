"""The settings of trainers that see each batch in two views: a subset of the modalities, and a superset of it."""

from dataclasses import dataclass
from typing import Literal, get_args

from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.fields import choice, number, setting, switch, whole

PLACEMENTS = ("stem", "encoder", "decoder")

ItemKernels = Literal["auto", "loop", "grouped", "sum"]


def _is_placement(value: object) -> bool:
    if not isinstance(value, (list, tuple)):
        return False
    return all(place in PLACEMENTS and value.count(place) == 1 for place in value)


@dataclass(frozen=True)
class TwoViewsSettings(Settings):
    """The settings of the views, of layers that depend on the code at low cost, and of averaged weights.

    With the default values, none of them changes anything. Symbols are as in docs/explanation/any_subset.md.
    """

    full_view: Literal["complete", "superset"] = choice("complete", ("complete", "superset"))
    """The view from which the dropped view learns: all modalities of the case, or a random superset of the dropped
    view's modalities within what the case has."""
    complete_share: float = number(0.5, 0, 1)
    """s, how often a random superset is the case's complete set of modalities; only with `full_view` "superset"."""
    need_power: float = number(0.0, 0, 10)
    """gamma: the subset of the dropped view is drawn in proportion to (1 - Dice)^gamma of its code in the training so
    far. With 0, all subsets are as likely."""
    need_floor: float = number(0.5, 0, 1)
    """f, the part of the draws in which all subsets are as likely; only with `need_power` above 0."""
    ranking_weight: float = number(0.0, 0, 1000)
    """Weight of the ranking loss, which is above 0 if the full view has a larger loss than the dropped view."""
    norm_by_code: bool = switch(False)
    """Whether scale and shift of each instance norm depend on the code."""
    rank: int = whole(0, 0, 1024)
    """R, the number of low-rank products by which the kernels in the places of `placement` depend on the code; with 0
    there are none. They take the place of a mixture's experts."""
    placement: tuple[str, ...] = setting(
        ("stem", "encoder"), _is_placement, f"a list with any of {', '.join(PLACEMENTS)}, each once"
    )
    """The places where convolutions depend on the code, if the method has experts or `rank` is above 0."""
    item_kernels: Literal["auto", "loop", "grouped", "sum"] = choice("auto", get_args(ItemKernels))
    """How to convolve a batch whose items have their own kernels: item by item (`loop`), as groups of one convolution
    (`grouped`), or as a weighted sum of terms that do not depend on the code (`sum`; with experts, the outputs of all
    of them, which needs more memory). `auto` chooses by device, dimension, batch size and number of experts. All
    compute the same up to rounding."""
    ema_decay: float = number(0.0, 0, 0.999999)
    """d, the decay of the exponential moving average of the weights in each iteration. The average is validated and
    saved as the model. With 0 there is no average."""
    ema_teacher: bool = switch(False)
    """Whether the averaged weights compute the full view, without gradient. Then a step costs about as much as one of
    nnU-Net. It needs `ema_decay` above 0."""
    code_phase_fraction: float = number(0.0, 0, 0.9)
    """Fraction of all epochs, the last ones, in which shared weights have a hundredth of their learning rate. The
    weights that depend on the code keep theirs."""
