"""Run `nnunet_moe upcycle`. Its options are in `request`."""

import argparse
import shlex

from nnunet_moe.commands.upcycle.request import Request
from nnunet_moe.runtime import options
from nnunet_moe.runtime.options import read_request

EXAMPLE = "nnunet_moe upcycle -i checkpoint_final.pth -o initial_weights.pth -tr nnUNetTrainerMoESD"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_options(parser, Request)


def run(namespace: argparse.Namespace) -> None:
    """Write the initial weights, and show how to train from them."""
    request = read_request(Request, namespace)

    from nnunet_moe.commands.upcycle.upcycle import upcycle_checkpoint

    target, note = upcycle_checkpoint(request)
    if note is not None:
        print(note)
    model = f"{target.dataset} {target.configuration} FOLD -tr {target.trainer} -p {target.plans}"
    file = shlex.quote(str(request.out))
    print(f"Wrote {request.out}. Train from it: nnUNetv2_train {model} -pretrained_weights {file}")
