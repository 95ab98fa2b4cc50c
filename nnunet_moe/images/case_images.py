"""The images of a case, with what is to be said about them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnunet_moe.errors import ModalityError
from nnunet_moe.modalities.codes import Code


@dataclass(frozen=True)
class CaseImages:
    """The images of a case, and notes on files that were ignored."""

    image: np.ndarray
    """`(K, *space)`, float32, NaN in missing channels."""
    properties: dict[str, Any]
    """The properties that nnU-Net's reader returned."""
    notes: tuple[str, ...] = ()
    """Messages on the files that were read: which of them count as missing, and why."""
    case: str = ""
    """Name of the case, if the file names follow nnU-Net's scheme."""
    missing: tuple[str, ...] = ()
    """Names of the missing modalities, if the dataset is known."""
    look_alikes: tuple[str, ...] = ()
    """Messages on files that were not read, but look as if they were meant for a missing modality."""
    placeholders: Mapping[int, str] = field(default_factory=dict)
    """Channel -> why its file seems to be a placeholder: it has a single value, or is equal to another one."""
    copies: tuple[str, ...] = ()
    """Messages on files that are copies of others, also with other gray values."""
    files: Mapping[int, str] = field(default_factory=dict)
    """Channel -> its file, for all files that were read."""
    axis_codes: tuple[str, ...] = ()
    """The directions of the axes of the files, as in `Grid.axis_codes`."""

    @property
    def available(self) -> Code:
        return tuple(not bool(np.isnan(channel).any()) for channel in self.image)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Return all messages on files that were not used, or perhaps should not be."""
        return (*self.notes, *self.copies, *self.look_alikes)

    @property
    def log_lines(self) -> tuple[str, ...]:
        """Return the lines that a log should contain about the case."""
        missing = [f"{self.case}: missing {', '.join(self.missing)}"] if self.missing else []
        return (*self.notes, *self.copies, *missing, *self.look_alikes)

    def require_no_copies(self) -> None:
        """Refuse a case in which a file is a copy of another one.

        Raises:
            ModalityError: there is such a file.
        """
        if self.copies:
            raise ModalityError(f"{'; '.join(self.copies)}. --refuse_copies was given. Remove this file.")
