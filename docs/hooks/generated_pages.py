"""MkDocs hooks: reference pages that are made from the code, and pages that lie at the root of the repository."""

import argparse
import ast
import inspect
import itertools
import re
from dataclasses import fields
from pathlib import Path
from types import ModuleType

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from nnunet_moe.cli import VERBS, parser_of
from nnunet_moe.settings import base, lckd, m4oe, moesd
from nnunet_moe.settings.fields import range_of
from nnunet_moe.trainers.external import nnunet_moe_trainers

ROOT_PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}
"""File at the root of the repository -> page of the site."""
SETTINGS = {
    "All trainers": (base, "Settings"),
    "MoE-SD: experts": (moesd, "ExpertSettings"),
    "MoE-SD: gate regularization": (moesd, "MoESettings"),
    "MoE-SD: self-distillation": (moesd, "SelfDistillationSettings"),
    "LCKD": (lckd, "LCKDSettings"),
    "M4oE": (m4oe, "M4oESettings"),
}
"""Heading -> the class with the settings, in this order."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site."""
    root = Path(config.config_file_path).parent
    pages = {page: root_page((root / file).read_text(encoding="utf-8")) for file, page in ROOT_PAGES.items()}
    pages["reference/settings.md"] = settings_page()
    pages["reference/trainers.md"] = trainers_page()
    pages |= {f"reference/commands/{verb}.md": command_page(verb) for verb in VERBS}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def root_page(text: str) -> str:
    """Return a Markdown file of the root as a page of the site, whose links start at `docs/`."""
    text = re.sub(r"\]\(docs/", "](", text)
    for file, page in ROOT_PAGES.items():
        text = text.replace(f"]({file}", f"]({page}")
    return text


def command_page(verb: str) -> str:
    """Return the page of a command: its usage, one table for each group of options, and its example."""
    parser = parser_of(verb)
    parts = [f"# nnunet_moe {verb}", parser.description or "", f"```text\n{parser.format_usage().strip()}\n```"]
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
        if not actions:
            continue
        rows = [(f"`{invocation(action)}`", cell(action.help or "")) for action in actions]
        parts += [f"## {(group.title or 'options').capitalize()}", table(("option", "meaning"), rows)]
    if parser.epilog:
        parts += ["## Example", fenced_example(parser.epilog)]
    return "\n\n".join(part for part in parts if part) + "\n"


def invocation(action: argparse.Action) -> str:
    """Return an option as one types it, with a placeholder for its value."""
    names = ", ".join(action.option_strings) or str(action.metavar)
    if not action.option_strings or action.nargs == 0:
        return names
    placeholder = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else "VALUE")
    return f"{names} {placeholder}" + (" ..." if action.nargs in ("+", "*") else "")


def fenced_example(epilog: str) -> str:
    """Return the example at the end of a help text as a block of code."""
    return "```bash\n" + inspect.cleandoc(epilog.partition("\n")[2]) + "\n```"


def settings_page() -> str:
    """Return the table of all settings, from the dataclasses that define and check them."""
    parts = [
        "# Settings",
        "Settings belong into a configuration of the plans, under the key `nnunet_moe`. "
        "[Change settings](../how_to/change_settings.md) shows how. A trainer reads the settings of its own method, "
        "and its log lists those that have no effect on it. A setting that no method knows is an error.",
    ]
    for title, (module, name) in SETTINGS.items():
        parts += [f"## {title}", table(("setting", "default", "allowed", "meaning"), settings_of(module, name))]
    return "\n\n".join(parts) + "\n"


def settings_of(module: ModuleType, name: str) -> list[tuple[str, ...]]:
    """Return a row for each setting that a class itself defines: name, default, allowed values, meaning."""
    classes = [node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.ClassDef)]
    body = next(node.body for node in classes if node.name == name)
    meanings = {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }
    own = getattr(module, name).__annotations__
    return [
        (f"`{field.name}`", f"`{field.default}`", cell(allowed.description), cell(str(meanings.get(field.name, ""))))
        for field in fields(getattr(module, name))
        if field.name in own and (allowed := range_of(field)) is not None
    ]


def trainers_page() -> str:
    """Return the table of all trainers that nnU-Net finds, with the first paragraph of their docstrings."""
    classes = {name: getattr(nnunet_moe_trainers, name) for name in nnunet_moe_trainers.__all__}
    rows = [(f"`{name}`", cell((inspect.getdoc(made) or "").split("\n\n")[0])) for name, made in classes.items()]
    return (
        '# Trainers\n\n`nnUNetv2_train ... -tr NAME` takes these names after `eval "$(nnunet_moe env)"`. '
        "[Choose a trainer](../how_to/choose_a_trainer.md) says when to use which.\n\n"
        + table(("trainer", "what it trains"), rows)
        + "\n"
    )


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(text: str) -> str:
    """Return a text that fits in a cell of a Markdown table."""
    return " ".join(text.replace("%%", "%").replace("|", "\\|").split())
