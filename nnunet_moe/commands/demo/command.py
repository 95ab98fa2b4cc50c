"""The options of `nnunet_moe demo`."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from nnunet_moe.runtime import options
from nnunet_moe.runtime.devices import device_option
from nnunet_moe.runtime.options import option, read_request


@dataclass(frozen=True, kw_only=True)
class Request:
    """Where to run the demo."""

    out: Path = option(
        "-o",
        type=Path,
        default=Path("nnunet_moe_demo"),
        group="input and output",
        help="write all files to this folder, which must be empty or new (default: %(default)s)",
    )
    device: str = device_option()


EXAMPLE = "nnunet_moe demo -o demo -device cpu"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_options(parser, Request)


def run(namespace: argparse.Namespace) -> None:
    """Run the demo."""
    request = read_request(Request, namespace)

    from nnunet_moe.commands.demo.demo import run_demo

    run_demo(request.out, request.device)
