"""Run `nnunet_moe predict`. Its options are in `request`."""

import argparse
import sys

from nnunet_moe.commands.predict.request import Request
from nnunet_moe.runtime import options
from nnunet_moe.runtime.options import read_request

EXAMPLE = "nnunet_moe predict -i incoming -o segmentations -d 502 -c 3d_fullres -tr nnUNetTrainerMoESD"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_options(parser, Request)


def run(namespace: argparse.Namespace) -> None:
    """Predict, and list the cases that failed."""
    request = read_request(Request, namespace)

    from nnunet_moe.commands.predict.predict import predict_cohort

    outcome = predict_cohort(request)
    print(f"Predicted {len(outcome.predicted)} cases into {request.out}")
    if outcome.doubtful:
        print(f"Doubtful: {len(outcome.doubtful)} cases, see the column doubtful of the manifest")
    print(outcome.network_time.sentence())
    if outcome.failures:
        listed = "\n".join(f"  {failure.case}: {failure.reason}" for failure in outcome.failures)
        sys.exit(f"Not predicted: {len(outcome.failures)}, see {outcome.failures_file}\n{listed}")
