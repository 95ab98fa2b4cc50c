"""Run `nnunet_moe plan_and_preprocess`. Its options are in `request`."""

import argparse

from nnunet_moe.commands.plan_and_preprocess.request import Request
from nnunet_moe.runtime import options
from nnunet_moe.runtime.options import read_request

EXAMPLE = "nnunet_moe plan_and_preprocess -d 502 -c 3d_fullres --verify_dataset_integrity"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_options(parser, Request)


def run(namespace: argparse.Namespace) -> None:
    """Plan and preprocess."""
    request = read_request(Request, namespace)

    from nnunet_moe.commands.plan_and_preprocess.plan_and_preprocess import plan_and_preprocess

    plan_and_preprocess(request)
