"""New files that stand for those of a user: messages name the original ones."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.case_images import CaseImages


@dataclass(frozen=True)
class OriginalNames:
    """From which original each new file was made."""

    originals: Mapping[str, str] = field(default_factory=dict)
    """New file -> original file or folder."""

    def in_text(self, text: str) -> str:
        """Return a message that names the originals instead of the new files."""
        for new, original in self.originals.items():
            text = text.replace(new, original)
        return text

    def before(self, later: Mapping[str, str]) -> "OriginalNames":
        """Return the names after further files were made, perhaps from these new ones.

        Args:
            later: further new file -> the file that it was made from.
        """
        return OriginalNames({**self.originals, **{new: self.originals.get(old, old) for new, old in later.items()}})

    def in_images(self, images: CaseImages, notes: tuple[str, ...] = ()) -> CaseImages:
        """Return what was read from new files with the names of the originals, and with further notes before its own.

        A note that is there twice is kept once.
        """
        return replace(
            images,
            notes=(*dict.fromkeys(map(self.in_text, (*notes, *images.notes))),),
            copies=(*map(self.in_text, images.copies),),
            files={channel: self.in_text(file) for channel, file in images.files.items()},
        )

    @contextmanager
    def in_errors(self) -> Iterator[None]:
        """Let errors on new files in this block name the originals."""
        try:
            yield
        except ModalityError as error:
            raise ModalityError(self.in_text(str(error))) from error
