"""The blocks of a tutorial's page, as a script that runs them one after the other in one shell."""

import re
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r'^```(?P<language>\w+)(?: title="(?P<file>[^"]+)")?\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL)
_MARK = "@@ block"
_NUMBER = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True)
class Block:
    language: str
    """`bash` and `python` run, and `text` after them is what they print. With a `file` it is the content of that file.
    Nothing else runs: `sh` needs what tests do not have."""
    file: str | None
    text: str


RUN = ("bash", "python")


def blocks_of(page: Path) -> list[Block]:
    return [Block(match["language"], match["file"], match["text"]) for match in _BLOCK.finditer(page.read_text())]


def script_of(blocks: list[Block]) -> str:
    """A bash script of all blocks; before each it prints a line with its number."""
    lines = ["set -eo pipefail"]
    for number, block in enumerate(blocks):
        lines.append(f"echo '{_MARK} {number}'")
        if block.file is not None:
            lines.append(f"mkdir -p \"$(dirname '{block.file}')\" && cat > '{block.file}' <<'END_OF_BLOCK'")
        elif block.language == "python":
            lines.append("python - <<'END_OF_BLOCK'")
        if block.file is not None or block.language == "python":
            lines += [block.text, "END_OF_BLOCK"]
        elif block.language == "bash":
            lines.append(block.text)
    return "\n".join(lines)


def printed_by_block(output: str) -> dict[int, list[str]]:
    """What each block printed, by its number."""
    parts = re.split(rf"^{_MARK} (\d+)\n", output, flags=re.MULTILINE)
    return {int(number): text.splitlines() for number, text in zip(parts[1::2], parts[2::2], strict=True)}


def not_printed(shown: str, printed: list[str]) -> list[str]:
    """Lines of a page that a command did not print; numbers may differ, and processes print in any order.

    `...` at the end of a line stands for its rest, and on a line of its own for other lines.
    """
    got = [_plain(line) for line in printed]
    lines = [line.strip() for line in shown.splitlines() if line.strip() not in ("", "...")]
    return [
        line
        for line in lines
        if not any(
            each.startswith(_plain(line.removesuffix("..."))) if line.endswith("...") else _plain(line) in each
            for each in got
        )
    ]


def _plain(line: str) -> str:
    return " ".join(_NUMBER.sub("0", line).split())
