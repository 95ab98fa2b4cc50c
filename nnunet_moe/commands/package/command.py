"""Runs `nnunet_moe package`; its options are in `request`."""

import argparse
import shlex

from nnunet_moe.commands.package.request import Request
from nnunet_moe.runtime import options
from nnunet_moe.runtime.options import read_request

EXAMPLE = "nnunet_moe package -d 502 -c 3d_fullres -tr nnUNetTrainerMoESD -o ms-lesions --target grand-challenge"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_options(parser, Request)


def run(namespace: argparse.Namespace) -> None:
    """Package the model, and say what the container takes."""
    request = read_request(Request, namespace)

    from nnunet_moe.commands.package.package import package_model

    packaged = package_model(request)
    print(f"Wrote {request.out}, for {packaged.takes}:")
    for name, modality in packaged.mapping.inputs.items():
        print(f"  {name}: {modality or 'known, not used'}")
    if not packaged.knows_training:
        print("WARNING: which subsets the training cases had is not known; the container will not warn of others")
    print("\n".join(packaged.said))
    if packaged.mapping.target == "grand-challenge":
        print(f"The segmentation goes to /output/{packaged.mapping.output_file}; -output names another socket")
    print(f"Go on with: {shlex.quote(str(request.out.resolve() / 'test.sh'))}")
