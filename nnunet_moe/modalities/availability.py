"""The available modalities of a dataset's cases, as a table with warnings."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence

from nnunet_moe.errors import ModalityError
from nnunet_moe.modalities.codes import Code, code_digits, code_text, is_within

AVAILABLE, ABSENT, ZEROS = "available", "absent", "zeros"
"""The words in the table of a dataset; `zeros` means a file that is zero everywhere and counts as missing, too."""


class Availability:
    """The available modalities of each case of a dataset.

    Args:
        files: case -> the code of its existing files, K bools.
        modalities: K names in channel order.
        codes: case -> the code of its files that are not zero everywhere; None if no file is.
    """

    def __init__(
        self, files: Mapping[str, Code], modalities: Sequence[str], codes: Mapping[str, Code] | None = None
    ) -> None:
        self.files, self.modalities = dict(files), tuple(modalities)
        self.codes = dict(files if codes is None else codes)
        self._counts = Counter(self.codes.values())

    def by_code(self) -> list[tuple[str, int]]:
        """List the codes in the dataset by the names of their modalities, with the number of cases; largest first."""
        counts = sorted(self._counts.items(), key=lambda entry: (-sum(entry[0]), code_digits(entry[0])))
        return [(code_text(code, self.modalities), count) for code, count in counts]

    def by_modality(self) -> list[tuple[str, int, int]]:
        """List the modalities with two numbers of cases: having the modality, and having a file of zeros."""
        having = [self._having(channel) for channel in range(len(self.modalities))]
        files = [sum(code[channel] for code in self.files.values()) for channel in range(len(self.modalities))]
        return [
            (name, number, num_files - number)
            for name, number, num_files in zip(self.modalities, having, files, strict=True)
        ]

    def csv(self) -> str:
        """Return a CSV table with one row for each case: its name, its code, and a word for each modality."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["case", "modalities", *self.modalities])
        for case, code in self.codes.items():
            rows.writerow([case, code_text(code, self.modalities), *map(_word, self.files[case], code)])
        return text.getvalue()

    @classmethod
    def from_csv(cls, text: str, modalities: Sequence[str]) -> "Availability":
        """Read a table that `csv` returned.

        Raises:
            ModalityError: the text is not such a table, or it is for other modalities.
        """
        header, *rows = csv.reader(io.StringIO(text)) if text else [[]]
        words = {row[0]: row[2:] for row in rows if row}
        if header != ["case", "modalities", *modalities] or not all(
            len(row) == len(modalities) and {*row} <= {AVAILABLE, ABSENT, ZEROS} for row in words.values()
        ):
            raise ModalityError(f"The text is not a table of the modalities {', '.join(modalities)}.")
        files, codes = (
            {case: tuple(word in meaning for word in row) for case, row in words.items()}
            for meaning in ((AVAILABLE, ZEROS), (AVAILABLE,))
        )
        return cls(files, modalities, codes)

    def warnings(self, test: "Availability | None") -> list[str]:
        """Return warnings that a user should read before training.

        Args:
            test: the modalities of the test cases; None if there are none.
        """
        found = [
            f"No training case has {name}. Therefore the model's output for this modality will be arbitrary. Remove it "
            "from dataset.json, or add training cases that have it."
            for channel, name in enumerate(self.modalities)
            if not self._having(channel)
        ]
        for code, count in {} if test is None else test._counts.items():
            if not any(is_within(code, trained) for trained in self._counts):
                found.append(
                    f"{count} of the test cases (imagesTs) {'has' if count == 1 else 'have'} "
                    f"{code_text(code, self.modalities)}. No training case has all of these modalities, so the model "
                    "never sees this subset in training. Expect worse results for them, and score them separately."
                )
        return found

    def _having(self, channel: int) -> int:
        return sum(code[channel] for code in self.codes.values())


def _word(has_file: bool, available: bool) -> str:
    return AVAILABLE if available else ZEROS if has_file else ABSENT
