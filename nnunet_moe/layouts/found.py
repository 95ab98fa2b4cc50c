"""The files of a case that were found in a folder."""

from dataclasses import dataclass, field
from pathlib import Path

LABEL = "segmentation"
"""The key of the segmentations among the names of the modalities."""


@dataclass
class FoundCase:
    """The files of a case."""

    fields: dict[str, str] = field(default_factory=dict)
    """Name in braces -> the text that it matched."""
    images: dict[str, Path] = field(default_factory=dict)
    """Modality -> file, or folder with a DICOM series."""
    label: Path | None = None

    @property
    def files(self) -> list[Path]:
        """All files of the case."""
        return [file for file in (*self.images.values(), self.label) if file is not None]
