"""The modalities that a case must have to be predicted."""

from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_moe.errors import ModalityError
from nnunet_moe.runtime.options import option


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """The modalities that a case must have to be predicted."""

    required: tuple[str, ...] = option(
        "--require",
        nargs="+",
        default=(),
        metavar="MODALITY",
        group="modalities and labels",
        help="fail cases that lack one of these modalities (default: none)",
    )
    min_modalities: int = option(
        "--min_modalities",
        type=int,
        default=1,
        group="modalities and labels",
        help="fail cases with fewer modalities (default: %(default)s)",
    )

    refuse_copies: bool = option(
        "--refuse_copies",
        action="store_true",
        group="modalities and labels",
        help="fail cases in which one file is a copy of another, instead of only noting it",
    )

    def check(self, code: Sequence[bool], modalities: Sequence[str]) -> None:
        """Refuse a code that lacks required modalities.

        Raises:
            ModalityError: a required modality is missing, or there are too few modalities.
        """
        has = [name for name, available in zip(modalities, code, strict=True) if available]
        text = "+".join(name or "a modality without a name" for name in has) or "no image"
        if missing := [name for name in self.required if name not in has]:
            raise ModalityError(f"The case has {text}, but not {', '.join(missing)}. --require asks for it.")
        if len(has) < self.min_modalities:
            asked = "1 modality" if self.min_modalities == 1 else f"{self.min_modalities} modalities"
            raise ModalityError(f"The case has {'only ' if has else ''}{text}. --min_modalities asks for {asked}.")
