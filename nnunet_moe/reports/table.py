"""The tables of reports, in Markdown, LaTeX, CSV and HTML."""

import csv
import html
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

PRESENT, ABSENT, UNKNOWN = "●", "○", "-"
BEST, SECOND, PLAIN = "best", "second", ""


@dataclass(frozen=True)
class Cell:
    text: str
    emphasis: str = PLAIN


@dataclass(frozen=True)
class Table:
    """A table of text. The best values are marked."""

    title: str
    columns: tuple[tuple[str, str], ...]
    """(Group, name) of each column. Successive columns of one group share a heading."""
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        styles = {BEST: "**{}**", SECOND: "<u>{}</u>", PLAIN: "{}"}
        names = [_markdown(_join(group, name)) for group, name in self.columns]
        rows = [[styles[cell.emphasis].format(_markdown(cell.text)) for cell in row] for row in self.rows]
        return "\n\n".join((f"**{_markdown(self.title)}**", markdown_table(names, rows), *self.notes)) + "\n"

    def latex(self) -> str:
        """Return the table as LaTeX for the package booktabs."""
        styles = {BEST: r"\textbf{{{}}}", SECOND: r"\underline{{{}}}", PLAIN: "{}"}
        groups = [
            _latex(group) if width == 1 else rf"\multicolumn{{{width}}}{{c}}{{{_latex(group)}}}"
            for group, width in self.groups()
        ]
        rows = [[styles[cell.emphasis].format(_latex(cell.text)) for cell in row] for row in self.rows]
        lines = [groups, [_latex(name) for _, name in self.columns]]
        head, body = ("\n".join(f"{' & '.join(line)} \\\\" for line in part) for part in (lines, rows))
        return "\n".join(
            (
                "% needs \\usepackage{booktabs}",
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{_latex(' '.join((f'{self.title}.', *self.notes)))}}}",
                rf"\begin{{tabular}}{{{'c' * len(self.columns)}}}",
                r"\toprule",
                head,
                r"\midrule",
                body,
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
                "",
            )
        )

    def csv(self) -> str:
        """Return the table as CSV, without emphasis."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(_join(group, name) for group, name in self.columns)
        writer.writerows([cell.text for cell in row] for row in self.rows)
        return out.getvalue()

    def html(self) -> str:
        styles = {BEST: "<b>{}</b>", SECOND: "<u>{}</u>", PLAIN: "{}"}
        groups = "".join(f'<th colspan="{width}">{html.escape(group)}</th>' for group, width in self.groups())
        names = "".join(f"<th>{html.escape(name)}</th>" for _, name in self.columns)
        rows = "".join(
            f"<tr>{''.join(f'<td>{styles[cell.emphasis].format(html.escape(cell.text))}</td>' for cell in row)}</tr>\n"
            for row in self.rows
        )
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        head = f"<tr>{groups}</tr><tr>{names}</tr>" if any(group for group, _ in self.columns) else f"<tr>{names}</tr>"
        caption = f"<figcaption>{html.escape(self.title)}</figcaption>"
        return (
            f"<figure>{caption}<div><table><thead>{head}</thead>\n<tbody>{rows}</tbody></table></div>{notes}</figure>"
        )

    def groups(self) -> list[tuple[str, int]]:
        """Return the successive groups with their number of columns."""
        found: list[tuple[str, int]] = []
        for group, _ in self.columns:
            if found and found[-1][0] == group:
                found[-1] = (group, found[-1][1] + 1)
            else:
                found.append((group, 1))
        return found


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Make a table in Markdown, without a newline at its end.

    Args:
        columns: the names of the columns, in Markdown.
        rows: the cells of each row, in Markdown.
    """
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def short_name(trainer: str) -> str:
    """Return a trainer's name without nnU-Net's prefix."""
    return trainer.removeprefix("nnUNetTrainer").lstrip("_") or trainer


def emphases(values: Sequence[float]) -> list[str]:
    """Mark the best and the second best value.

    Values are compared in percent with two decimals, as tables show them. Equal values get the same mark. NaN gets
    none.
    """
    shown = [math.nan if math.isnan(value) else round(100 * value, 2) for value in values]
    ranked = sorted({value for value in shown if not math.isnan(value)}, reverse=True)
    marks = {value: mark for value, mark in zip(ranked, (BEST, SECOND), strict=False)}
    return [marks.get(value, PLAIN) for value in shown]


def _join(group: str, name: str) -> str:
    return name if group in ("", "Modalities") else f"{group} {name}"


def _markdown(text: str) -> str:
    """Escape text for a Markdown table."""
    return re.sub(r"[\\`*_|<>]", lambda match: "&lt;" if match[0] == "<" else f"\\{match[0]}", text)


def _latex(text: str) -> str:
    """Escape text for LaTeX."""
    signs = {
        PRESENT: r"$\bullet$",
        ABSENT: r"$\circ$",
        "±": r"$\pm$",
        "³": r"$^3$",
        "\\": r"\textbackslash{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
    return re.sub("|".join(re.escape(sign) for sign in signs), lambda match: signs[match[0]], text)
