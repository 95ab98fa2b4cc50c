"""Run `nnunet_moe evaluate`. Its options are in `request`."""

import argparse
import sys

from nnunet_moe.commands.evaluate.request import Request
from nnunet_moe.runtime import options
from nnunet_moe.runtime.options import read_request

EXAMPLE = "nnunet_moe evaluate -d 502 -c 3d_fullres -tr nnUNetTrainerMoESD nnUNetTrainerModalityDropout -o scores"

MOST_SHOWN = 10
"""How many failures are printed."""


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
    if failed := results.failures_by_reason():
        shown = "\n".join(f"  {line}" for line in failed[:MOST_SHOWN])
        more = f"\n  ... and {len(failed) - MOST_SHOWN} more" if len(failed) > MOST_SHOWN else ""
        sys.exit(
            f"Failed segmentations: {len(results.failures)}\n{shown}{more}\n{report} lists all of them with the "
            "reasons. Fix these and rerun."
        )
