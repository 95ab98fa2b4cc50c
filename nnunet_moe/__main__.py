"""`python -m nnunet_moe` is the command `nnunet_moe`."""

from nnunet_moe.cli import main

main()
