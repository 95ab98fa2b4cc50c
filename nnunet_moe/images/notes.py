"""Messages on the images of cases."""

from collections.abc import Iterable


class ModalityNote(str):
    """A message on a file that holds for all files of its modality, so a log needs only the first one."""

    __slots__ = ("modality",)
    modality: str

    def __new__(cls, text: str, modality: str) -> "ModalityNote":
        """Make a message.

        Args:
            text: the message.
            modality: the name of the modality.
        """
        note = super().__new__(cls, text)
        note.modality = modality
        return note

    def __reduce__(self) -> tuple[type["ModalityNote"], tuple[str, str]]:
        """Keep the modality when the message goes to another process."""
        return ModalityNote, (str(self), self.modality)


class OncePerModality:
    """Remembers which messages of class `ModalityNote` a log contains."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def new(self, notes: Iterable[str]) -> list[str]:
        """Return the messages without those on modalities that earlier calls had."""
        lines = []
        for note in notes:
            if isinstance(note, ModalityNote):
                if note.modality in self._told:
                    continue
                self._told.add(note.modality)
            lines.append(note)
        return lines
