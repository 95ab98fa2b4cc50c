"""Run `nnunet_moe evaluate`. Its options are in `request`."""

import argparse
import sys

from nnunet_moe.commands.evaluate.request import Request
from nnunet_moe.runtime import options
from nnunet_moe.runtime.options import read_request

EXAMPLE = "nnunet_moe evaluate -d 502 -c 3d_fullres -tr nnUNetTrainerMoESD nnUNetTrainerModalityDropout -o scores"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_options(parser, Request)


def run(namespace: argparse.Namespace) -> None:
    """Score the models, write the report and print its first table."""
    request = read_request(Request, namespace)

    from nnunet_moe.commands.evaluate.evaluate import score_models
    from nnunet_moe.commands.evaluate.report import write_evaluation
    from nnunet_moe.commands.evaluate.tables import code_table

    evaluation = score_models(request)
    report = write_evaluation(evaluation, request)
    results = evaluation.results
    print(code_table(results, results.shown_labels[0]).markdown())
    print(f"Report: {report}")
    print(evaluation.network_time.sentence())
    if num_failed := len(results.failures):
        sys.exit(f"Failed segmentations: {num_failed}. The report lists them with the reasons. Fix these and rerun.")
