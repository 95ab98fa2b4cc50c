"""The docs name what exists, and name all of it."""

import re
import shlex
from pathlib import Path

import pytest

from nnunet_moe.cli import VERBS, parser_of
from nnunet_moe.trainers.external import nnunet_moe_trainers

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
OF_NNUNET = {"nnUNetTrainer", "nnUNetTrainerNoMirroring"}
BASES = {"nnUNetTrainerMissingModality", "nnUNetTrainerTwoViews"}
"""What our trainers inherit from; nnU-Net does not find them."""


TRAINERS = set(nnunet_moe_trainers.__all__)


def options() -> dict[str, set[str]]:
    return {verb: set(parser_of(verb)._option_string_actions) for verb in VERBS}


def commands(text: str) -> list[list[str]]:
    """The words of each line of code that calls `nnunet_moe`, up to a comment, a pipe or a further command."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    found = [match[1] for line in lines if (match := re.match(r"\s*(?:\.venv/bin/)?nnunet_moe (.*)", line))]
    found += re.findall(r"`nnunet_moe ([^`]+)`", text)
    split = [shlex.split(re.split(r"[|#)]| && ", line)[0], posix=True) for line in found]
    return [words for words in split if words and not words[0].startswith("-")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_verbs_options_and_trainers_that_exist(page):
    text, known = page.read_text(), options()
    for verb, *words in commands(text):
        if verb in ("VERB", "..."):
            continue
        assert verb in VERBS, f"{page}: nnunet_moe {verb}"
        own = words[: words.index("--")] if "--" in words else words
        unknown = [word for word in own if re.match(r"--?[a-zA-Z]", word) and word not in known[verb]]
        assert not unknown, f"{page}: nnunet_moe {verb} {unknown}"
    named = set(re.findall(r"\bnnUNetTrainer[A-Za-z0-9]*", text))
    assert named <= TRAINERS | OF_NNUNET | BASES, page


def test_every_verb_is_in_the_readme_and_every_trainer_in_the_page_that_helps_to_choose_one():
    readme = (ROOT / "README.md").read_text()
    assert [verb for verb in VERBS if f"`nnunet_moe {verb}`" not in readme] == []
    page = (ROOT / "docs" / "how_to" / "choose_a_trainer.md").read_text()
    assert sorted(TRAINERS - set(re.findall(r"\bnnUNetTrainer[A-Za-z0-9]+", page))) == []


def test_the_navigation_of_the_site_has_a_page_for_every_verb():
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert [verb for verb in VERBS if f"reference/commands/{verb}.md" not in navigation] == []


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=lambda page: page.name)
def test_links_of_pages_outside_the_site_lead_to_files(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_lowest_versions_are_those_that_the_project_allows():
    lowest = dict(
        line.split("==") for line in (ROOT / "constraints" / "lowest.txt").read_text().splitlines() if "==" in line
    )
    project = (ROOT / "pyproject.toml").read_text()
    allowed = {name.lower(): version for name, version in re.findall(r'"([\w-]+)>=([\d.]+)', project)}
    padded = {name: version + ".0" * (2 - version.count(".")) for name, version in allowed.items() if name in lowest}
    assert {name: version + ".0" * (2 - version.count(".")) for name, version in lowest.items()} == padded
