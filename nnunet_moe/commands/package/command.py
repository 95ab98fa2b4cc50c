"""Run `nnunet_moe package`. Its options are in `request`."""

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
    """Package the model and print what the container takes."""
    request = read_request(Request, namespace)

    from nnunet_moe.commands.package.package import package_model

    packaged = package_model(request)
    print(f"Wrote {request.out}, for {packaged.takes}:")
    for name, modality in packaged.mapping.inputs.items():
        print(f"  {name}: {modality or 'accepted, not used'}")
    if not packaged.knows_training:
        print(
            "WARNING: the subsets of the training cases are not known. The container cannot warn of untrained subsets"
        )
    print("\n".join(packaged.said))
    if packaged.mapping.target == "grand-challenge":
        print(f"The container writes /output/{packaged.mapping.output_file}. Choose another socket with -output")
    print(f"Next, build and test the container: {shlex.quote(str(request.out.resolve() / 'test.sh'))}")
