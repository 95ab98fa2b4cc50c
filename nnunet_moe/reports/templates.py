"""Load Jinja templates. Each lies in the folder of the code that fills it."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def templates(package: str, *, is_html: bool = False, keep_trailing_newline: bool = False) -> Environment:
    """Return the templates of a package, with the filter `cell` that puts a text into a cell of a Markdown table.

    If a value that a template needs is missing, rendering raises jinja's `UndefinedError`.

    Args:
        package: dotted name of the package with the templates.
        is_html: whether values are escaped for HTML.
        keep_trailing_newline: whether the text ends with a newline if the template's file does.
    """
    environment = Environment(
        loader=PackageLoader(package, ""),
        autoescape=is_html,
        undefined=StrictUndefined,
        keep_trailing_newline=keep_trailing_newline,
    )
    environment.filters["cell"] = lambda text: " ".join(str(text).replace("|", "\\|").split())
    return environment
