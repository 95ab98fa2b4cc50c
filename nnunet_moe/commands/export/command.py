"""Run `nnunet_moe export`. Its options are in `request`."""

import argparse

from nnunet_moe.commands.export.request import Request
from nnunet_moe.runtime import options
from nnunet_moe.runtime.options import read_request

EXAMPLE = "nnunet_moe export -d 502 -c 3d_fullres -tr nnUNetTrainerMoESD -m T1w+FLAIR -o t1w_flair"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_options(parser, Request)


def run(namespace: argparse.Namespace) -> None:
    """Export the model and print the written folders."""
    request = read_request(Request, namespace)

    from nnunet_moe.commands.export.export import export_models

    for folder in export_models(request):
        print(f"Wrote {folder}. Its README.md lists the channel numbers")
