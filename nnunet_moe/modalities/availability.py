"""Which modalities the cases of a dataset have."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence

from nnunet_moe.errors import ModalityError
from nnunet_moe.modalities.codes import Code, code_digits, code_text, is_within

AVAILABLE, ABSENT, ZEROS = "available", "absent", "zeros"
"""What the table of a dataset says of a modality; the last one has a file that is zero everywhere: absent, too."""


class Availability:
    """What each case of a dataset has.

    Args:
        files: case -> the code of the files that there are.
        modalities: K names in channel order.
        codes: case -> what it has, without the files that are zero everywhere; None if that is all files.
    """

    def __init__(
        self, files: Mapping[str, Code], modalities: Sequence[str], codes: Mapping[str, Code] | None = None
    ) -> None:
        self.files, self.modalities = dict(files), tuple(modalities)
        self.codes = dict(files if codes is None else codes)
        self._counts = Counter(self.codes.values())

    def by_code(self) -> list[tuple[str, int]]:
        """The modalities of each code and how many cases have it; most modalities first."""
        counts = sorted(self._counts.items(), key=lambda entry: (-sum(entry[0]), code_digits(entry[0])))
        return [(code_text(code, self.modalities), count) for code, count in counts]

    def by_modality(self) -> list[tuple[str, int, int]]:
        """Each modality, how many cases have it, and of how many the file is zero everywhere."""
        having = [self._having(channel) for channel in range(len(self.modalities))]
        files = [sum(code[channel] for code in self.files.values()) for channel in range(len(self.modalities))]
        return [
            (name, number, num_files - number)
            for name, number, num_files in zip(self.modalities, having, files, strict=True)
        ]

    def csv(self) -> str:
        """One row a case: its name, its code, and what it has of each modality."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["case", "modalities", *self.modalities])
        for case, code in self.codes.items():
            rows.writerow([case, code_text(code, self.modalities), *map(_word, self.files[case], code)])
        return text.getvalue()

    @classmethod
    def from_csv(cls, text: str, modalities: Sequence[str]) -> "Availability":
        """Read what `csv` wrote.

        Raises:
            ModalityError: the text is no such table of these modalities.
        """
        header, *rows = csv.reader(io.StringIO(text)) if text else [[]]
        words = {row[0]: row[2:] for row in rows if row}
        if header != ["case", "modalities", *modalities] or not all(
            len(row) == len(modalities) and {*row} <= {AVAILABLE, ABSENT, ZEROS} for row in words.values()
        ):
            raise ModalityError(f"A table of the modalities {', '.join(modalities)} was expected.")
        files, codes = (
            {case: tuple(word in meaning for word in row) for case, row in words.items()}
            for meaning in ((AVAILABLE, ZEROS), (AVAILABLE,))
        )
        return cls(files, modalities, codes)

    def warnings(self, test: "Availability | None") -> list[str]:
        """What a user should know before training.

        Args:
            test: of the test cases, if there are any.
        """
        found = [
            f"No training case has {name}. A model will not have seen it, and what it makes of it in prediction is "
            "arbitrary. Take it out of dataset.json, or add cases that have it."
            for channel, name in enumerate(self.modalities)
            if not self._having(channel)
        ]
        for code, count in {} if test is None else test._counts.items():
            if not any(is_within(code, trained) for trained in self._counts):
                found.append(
                    f"{count} of the test cases (imagesTs) {'has' if count == 1 else 'have'} "
                    f"{code_text(code, self.modalities)}, which no training case has together: training cannot show a "
                    "model this combination. Expect less of such cases, and score them apart."
                )
        return found

    def _having(self, channel: int) -> int:
        return sum(code[channel] for code in self.codes.values())


def _word(has_file: bool, available: bool) -> str:
    return AVAILABLE if available else ZEROS if has_file else ABSENT
