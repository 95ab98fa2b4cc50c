"""The command `nnunet_moe` and its verbs. Their options have the same names as nnU-Net's."""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from nnunet_moe.commands.demo import command as demo
from nnunet_moe.commands.env import command as env
from nnunet_moe.commands.evaluate import command as evaluate
from nnunet_moe.commands.export import command as export
from nnunet_moe.commands.import_dataset import command as import_dataset
from nnunet_moe.commands.package import command as package
from nnunet_moe.commands.plan_and_preprocess import command as plan_and_preprocess
from nnunet_moe.commands.predict import command as predict
from nnunet_moe.commands.study import command as study
from nnunet_moe.commands.upcycle import command as upcycle
from nnunet_moe.errors import NnunetMoeError
from nnunet_moe.runtime.environment import version_line
from nnunet_moe.runtime.user_files import user_files

VERBS: dict[str, tuple[ModuleType, str]] = {
    "env": (env, "print the shell command that lets nnU-Net find the trainers"),
    "demo": (demo, "train and predict on a small simulated dataset, from start to end"),
    "import": (import_dataset, "convert a folder with another layout into a raw nnU-Net dataset"),
    "plan_and_preprocess": (
        plan_and_preprocess,
        "plan and preprocess datasets whose training cases may have missing files",
    ),
    "upcycle": (upcycle, "convert a checkpoint into initial weights for a trainer with experts (-pretrained_weights)"),
    "predict": (predict, "predict cases with missing files; cases that fail do not stop the others"),
    "evaluate": (evaluate, "score trained models on every subset of the modalities"),
    "export": (export, "export a trained model as an ordinary nnU-Net for a subset of the modalities"),
    "package": (package, "write a folder from which to build a container of a trained model"),
    "study": (study, "compare several trainers over seeds and folds; Snakemake gets the arguments after --"),
}
"""Verb -> the module with `add_options`, `run` and `EXAMPLE`, and what the verb does."""


class _ShowVersion(argparse.Action):
    """Look up the versions only when they are asked for, because that reads files of each package."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(version_line())
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of all verbs, which stores the verb's name as `verb`."""
    parser = argparse.ArgumentParser(prog="nnunet_moe", description="nnU-Net with any subset of the modalities.")
    parser.add_argument(
        "--version", action=_ShowVersion, help="show the version, also of nnU-Net and PyTorch, and exit"
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, (command, text) in VERBS.items():
        command.add_options(verbs.add_parser(verb, help=text, **_texts(verb)))
    return parser


def parser_of(verb: str) -> argparse.ArgumentParser:
    """Make the parser of only one verb."""
    parser = argparse.ArgumentParser(prog=f"nnunet_moe {verb}", **_texts(verb))
    VERBS[verb][0].add_options(parser)
    return parser


def _texts(verb: str) -> dict[str, Any]:
    """Return what the help of a verb shows around its options."""
    command, text = VERBS[verb]
    return {
        "description": f"{text[0].upper()}{text[1:]}.",
        "epilog": f"example:\n  {command.EXAMPLE}",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb. An error of the user gives one message and exit status 1, any other error a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # case names may contain characters that the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    own = given[: given.index("--")] if given[:1] == ["study"] and "--" in given else given
    try:
        options = make_parser().parse_args(own, argparse.Namespace(more=given[len(own) + 1 :]))
        command, _ = VERBS[options.verb]
        with user_files(value for value in vars(options).values() if isinstance(value, Path)):
            command.run(options)
    except NnunetMoeError as error:
        sys.exit(f"nnunet_moe {given[0]}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"nnunet_moe {given[0]}: interrupted")
