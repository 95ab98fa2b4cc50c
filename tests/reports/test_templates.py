"""Jinja templates of this package's folders."""

import pytest
from jinja2 import UndefinedError

from nnunet_moe.reports.templates import templates


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with the template `t`, which shows the value `name`."""
    (tmp_path / "made_templates").mkdir()
    (tmp_path / "made_templates" / "__init__.py").touch()
    (tmp_path / "made_templates" / "t").write_text("| {{ name | cell }} |\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "made_templates"


def test_a_text_stays_in_its_cell(package):
    assert templates(package).get_template("t").render(name=" a\n b|c<d") == "| a b\\|c<d |"
    text = templates(package, is_html=True, keep_trailing_newline=True).get_template("t").render(name="a<b")
    assert text == "| a&lt;b |\n"


def test_a_value_that_is_missing_is_an_error(package):
    with pytest.raises(UndefinedError, match="name"):
        templates(package).get_template("t").render()
