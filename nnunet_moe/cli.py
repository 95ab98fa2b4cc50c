"""The command `nnunet_moe`, with nnU-Net's own option names."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_moe.environment import export_line
from nnunet_moe.errors import NnunetMoeError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb; a user's error is one message on stderr and exit status 1."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (NnunetMoeError, OSError) as error:
        sys.exit(f"nnunet_moe {options.verb}: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nnunet_moe", description="nnU-Net with any subset of the modalities.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    env = verbs.add_parser("env", help="print the line that makes nnU-Net find the trainers")
    env.add_argument("--shell", choices=("bash", "fish"), help="print only this shell's line (default: both)")
    env.set_defaults(run=_env)

    demo = verbs.add_parser("demo", help="train and predict a small phantom cohort from start to end")
    demo.add_argument("-o", type=Path, default=Path("nnunet_moe_demo"), help="output folder (default: %(default)s)")
    demo.add_argument("-device", choices=("cpu", "cuda", "mps"), help="default: cuda where there is one, else cpu")
    demo.set_defaults(run=_demo)

    upcycle = verbs.add_parser(
        "upcycle", help="make an ordinary nnU-Net checkpoint a start for training with experts (-pretrained_weights)"
    )
    upcycle.add_argument("-i", type=Path, required=True, help="the checkpoint of an ordinary nnU-Net")
    upcycle.add_argument("-o", type=Path, required=True, help="the file to write")
    upcycle.add_argument("-tr", required=True, help="the trainer that will start from it, e.g. nnUNetTrainerMoESD")
    upcycle.add_argument("-d", help="dataset to train on, name or id (default: the checkpoint's)")
    upcycle.add_argument("-c", help="configuration to train (default: the checkpoint's)")
    upcycle.add_argument("-p", help="its plans (default: the checkpoint's)")
    upcycle.add_argument(
        "-noise",
        type=float,
        default=0.01,
        help="SD of the experts' noise over the SD of the weights (default: %(default)s)",
    )
    upcycle.add_argument("-seed", type=int, default=0, help="of noise and gates (default: %(default)s)")
    upcycle.set_defaults(run=_upcycle)
    return parser


def _env(options: argparse.Namespace) -> None:
    if options.shell is not None:
        print(export_line(options.shell))
    else:
        print(export_line("bash"))  # first, so that it counts also when a shell joins the lines
        print('# bash, zsh: eval "$(nnunet_moe env)"      fish: nnunet_moe env --shell fish | source')
        print(f"# {export_line('fish')}")


def _demo(options: argparse.Namespace) -> None:
    import torch

    from nnunet_moe.demo import run_demo

    run_demo(options.o, options.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _upcycle(options: argparse.Namespace) -> None:
    from nnunet_moe.upcycle import upcycle_checkpoint

    target = upcycle_checkpoint(
        options.i,
        options.o,
        options.tr,
        dataset=options.d,
        plans=options.p,
        configuration=options.c,
        noise=options.noise,
        seed=options.seed,
    )
    model = f"{target.dataset} {target.configuration} FOLD -tr {target.trainer} -p {target.plans}"
    file = shlex.quote(str(options.o))
    print(f"Wrote {options.o}. Start from it: nnUNetv2_train {model} -pretrained_weights {file}")
