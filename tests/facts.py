"""What an error must say, without how it says it: the names, keys and numbers in its message."""

import re


def facts(*said: object) -> str:
    """Pattern for ``pytest.raises(..., match=)``: all of ``said`` stand in the message, in any order and on any line.

    Each is literal text and a whole word: 1 does not stand in '12', nor T1 in 'T1w'.
    """
    return r"(?s)\A" + "".join(f"(?=.*{_whole(str(fact))})" for fact in said)


def _whole(fact: str) -> str:
    before = r"(?<!\w)" if re.match(r"\w", fact) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", fact) else ""
    return before + re.escape(fact) + after
