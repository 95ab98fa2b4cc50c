"""Write the files of a report: tables in several formats, pictures, and a page with all of them."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from nnunet_moe.reports.table import Table
from nnunet_moe.reports.templates import templates
from nnunet_moe.runtime.files import atomic_write


@dataclass
class Picture:
    caption: str
    data: str
    """PNG in base64."""
    is_overlay: bool = False


@dataclass
class Section:
    title: str
    tables: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    """Text and relative address, quoted for URLs."""

    def add_table(self, stem: Path, table: Table) -> None:
        """Show a table on the page, and write it to files in several formats."""
        for ending, text in ((".md", table.markdown()), (".csv", table.csv()), (".tex", table.latex())):
            write(stem.with_name(stem.name + ending), text)
        self.tables.append(table.html())

    def add_figure(self, file: Path, caption: str, figure: Figure, *, is_overlay: bool = False) -> None:
        """Show a figure on the page, and write it to a file."""
        png = io.BytesIO()
        figure.savefig(png, dpi=130, format="png")
        write(file, png.getvalue())
        self.add_picture(caption, png.getvalue(), is_overlay=is_overlay)

    def add_picture(self, caption: str, png: bytes, *, is_overlay: bool = False) -> None:
        self.pictures.append(Picture(caption, base64.b64encode(png).decode(), is_overlay))


def page(
    title: str,
    verdicts: Sequence[str],
    summary: str,
    sections: Sequence[Section],
    settings: Mapping[str, Any],
    failures: str = "",
) -> str:
    """Make the HTML of a report that contains all its pictures and loads no other files.

    Args:
        title: the title as plain text. `verdicts`, `summary` and the names of the settings are plain text, too.
        verdicts: the outcome in plain sentences, one paragraph each, before everything else.
        summary: one paragraph.
        sections: the sections in the order of the page.
        settings: the settings to show at the end.
        failures: a table of failures as HTML; empty if there are none.
    """
    template = templates("nnunet_moe.reports", is_html=True).get_template("report.html.jinja")
    return template.render(
        title=title,
        verdicts=verdicts,
        summary=summary,
        sections=sections,
        failures=failures,
        settings=[(name, json.dumps(value, ensure_ascii=False)) for name, value in settings.items()],
    )


def write(file: Path, content: str | bytes) -> None:
    """Write a file and create its folders. On an error, leave no incomplete file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
