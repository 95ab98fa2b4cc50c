"""Options as fields of a dataclass: defaults, values and help come from one place."""

import argparse
import re
import shlex
import subprocess
import sys
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path

import pytest

from facts import facts
from nnunet_moe.cli import VERBS, make_parser, parser_of
from nnunet_moe.errors import SettingsError
from nnunet_moe.runtime.options import NamedValues, add_options, one_of, option, options_of, read_request

HELP_STARTS = frozenset(
    re.findall(
        r"\w+",
        """
        accept add assign build call check compute convert create do export extract fail find follow hide ignore join
        keep link list load make measure move name plan predict preprocess print put read recompute resample resume
        run save score search seed share show start train treat turn use write
        """,
    )
)
"""The verbs that help texts start with. Add a verb here if a new help text needs it."""


def pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: float = option("-size", type=float, default=0.5, group="compute", help="of it (default: %(default)s)")
    mirroring: bool = option("--plain", action="store_false")


@dataclass(frozen=True, kw_only=True)
class Outer:
    file: Path = option("FILE", type=Path)
    out: Path = option("-o", "--out", type=Path)
    names: tuple[str, ...] = option("-names", nargs="+", default=("a", "b"), group="model", help="in %(default)s")
    pairs: dict[str, str] | None = option("-m", action=NamedValues, type=pair, default=None)
    which: str | None = one_of(option("-w"), option("--all", action="store_const", const=None))
    inner: Inner = options_of(Inner, help={"-size": "another text"})
    dry: bool = option("--dry", action="store_true")


def parsed(request: type, *arguments: str):
    parser = argparse.ArgumentParser()
    add_options(parser, request)
    return read_request(request, parser.parse_args(arguments))


def test_what_is_not_given_has_the_fields_default():
    assert parsed(Inner) == Inner() == Inner(size=0.5, mirroring=True)
    given = parsed(Outer, "here", "-o", "there", "--all")
    assert given == Outer(file=Path("here"), out=Path("there"), which=None)
    assert (given.names, given.pairs, given.inner, given.dry) == (("a", "b"), None, Inner(), False)


def test_every_value_arrives_in_its_field():
    lists = ("-names", "x", "y", "-m", "A=1", "-m", "B=2")
    given = parsed(Outer, "here", "--out", "there", *lists, "-w", "T1w", "-size", "0.25", "--plain", "--dry")
    assert given == Outer(
        file=Path("here"),
        out=Path("there"),
        names=("x", "y"),
        pairs={"A": "1", "B": "2"},
        which="T1w",
        inner=Inner(size=0.25, mirroring=False),
        dry=True,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("here", "--all"),  # -o is required
        ("here", "-o", "there"),  # one of -w and --all is
        ("here", "-o", "there", "--all", "-w", "T1w"),  # and only one
        ("here", "-o", "there", "--all", "-unknown", "1"),
        ("here", "-o", "there", "--all", "-size", "x"),
        ("-o", "there", "--all"),  # the file is required
    ],
)
def test_what_does_not_fit_the_options_is_refused(arguments):
    with pytest.raises(SystemExit) as refusal:
        parsed(Outer, *arguments)
    assert refusal.value.code == 2


def test_a_name_that_comes_twice_is_refused():
    with pytest.raises(SettingsError, match=facts("-m", "A twice")):
        parsed(Outer, "here", "-o", "there", "--all", "-m", "A=1", "-m", "A=2")


def test_help_has_the_default_and_a_commands_own_text():
    inner, outer = argparse.ArgumentParser(), argparse.ArgumentParser()
    add_options(inner, Inner)
    add_options(outer, Outer)
    assert "(default: 0.5)" in inner.format_help() and "-size SIZE" in inner.format_help()
    assert "another text" in outer.format_help() and "OUTER" not in outer.format_help()
    assert "in a b" in outer.format_help()  # as on the command line, not as Python writes a tuple


def test_help_lists_the_options_below_the_headings_of_their_groups():
    parser = argparse.ArgumentParser()
    add_options(parser, Outer)
    rest, of_model, of_compute = re.split(r"^(?:model|compute):$", parser.format_help(), flags=re.MULTILINE)
    assert "--out" in rest and "-names" in of_model and "-size" in of_compute


def places_of(request: type) -> list[Field]:
    """Every field that is an option, also of dataclasses in fields."""
    found = []
    for field in fields(request):
        found += places_of(field.metadata["nested"]) if "nested" in field.metadata else [field]
    return found


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_of_a_verb_has_a_group_a_help_text_that_starts_with_a_verb_and_its_default(verb):
    actions = {
        flag: action for action in parser_of(verb)._actions for flag in action.option_strings or [action.metavar]
    }
    for field in places_of(VERBS[verb][0].Request):
        for made in field.metadata["options"]:
            text = actions[made.flags[0]].help
            assert made.group is not None, made.flags
            assert text and text.split()[0] in HELP_STARTS, (made.flags, text)
            has_default = field.default is not MISSING or field.default_factory is not MISSING
            is_flag = made.arguments.get("action") in ("store_true", "store_false")
            assert ("(default: " in text) == (has_default and not is_flag), (made.flags, text)
            assert "%" not in text or "%%" in text


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_ends_with_an_example_that_the_verb_accepts(verb, tmp_path, monkeypatch):
    *_, heading, example = parser_of(verb).format_help().splitlines()
    assert heading == "example:"
    name, *arguments = shlex.split(re.search(r"nnunet_moe ([^)]*)", example)[1])
    assert name == verb
    monkeypatch.chdir(tmp_path)
    Path("BraTS2023").mkdir()  # which the example of import reads
    namespace = make_parser().parse_args([verb, *arguments])
    assert read_request(VERBS[verb][0].Request, namespace)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_exactly_the_options_of_its_request(verb):
    offered = {flag for action in parser_of(verb)._actions for flag in action.option_strings}
    defined = {
        flag for field in places_of(VERBS[verb][0].Request) for made in field.metadata["options"] for flag in made.flags
    }
    assert offered - {"-h", "--help"} == {flag for flag in defined if flag.startswith("-")}


@pytest.mark.parametrize("verb", VERBS)
def test_every_field_of_a_request_is_an_option(verb):
    of_request = fields(VERBS[verb][0].Request)
    assert all("options" in field.metadata or "nested" in field.metadata for field in of_request)
    assert all(field.default is MISSING or field.default_factory is MISSING for field in of_request)


def test_the_command_starts_without_heavy_imports():
    heavy = ("torch", "nnunetv2", "numpy", "pandas", "matplotlib")
    code = f"import sys, nnunet_moe.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
