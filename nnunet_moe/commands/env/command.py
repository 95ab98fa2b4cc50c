"""The options of `nnunet_moe env`, which prints a line for the shell."""

import argparse
from dataclasses import dataclass

from nnunet_moe.runtime import options
from nnunet_moe.runtime.environment import export_line
from nnunet_moe.runtime.options import option, read_request


@dataclass(frozen=True, kw_only=True)
class Request:
    """The shell for which to print a line."""

    shell: str | None = option(
        "--shell",
        choices=("bash", "fish", "powershell"),
        default=None,
        group="input and output",
        help="print only the line for this shell (default: those for bash and fish)",
    )


EXAMPLE = 'eval "$(nnunet_moe env)"'


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_options(parser, Request)


def run(namespace: argparse.Namespace) -> None:
    """Print the line that sets the variable `nnUNet_extTrainer`."""
    request = read_request(Request, namespace)
    if request.shell is not None:
        print(export_line(request.shell))
    else:
        print(export_line("bash"))  # first, so that it works also if a shell joins the lines
        print('# bash, zsh: eval "$(nnunet_moe env)"      fish: nnunet_moe env --shell fish | source')
        print(f"# {export_line('fish')}")
