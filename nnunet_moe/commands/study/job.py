"""Run one job of a study: take two locks, then run a command.

    python -m nnunet_moe.commands.study.job --lock FILE [--device ID ...] -- COMMAND ...

A study that was killed may leave jobs running. So the locks are open files that the command and its child processes
inherit. They are free once the last of these processes has ended, for any reason.

- The first lock belongs to the job, so that no job runs twice at a time.
- The second lock belongs to a device. The job takes the first free device, and the command sees only this one. The lock
  counts for all studies of a user on a machine.
"""

import argparse
import os
import shlex
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from nnunet_moe.runtime.locks import hold

SECONDS_BETWEEN_TRIES = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Wait for the locks, then replace this process by the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lock", type=Path, required=True, help="use this file as the lock of the job")
    parser.add_argument(
        "--device",
        action="append",
        default=[],
        help="allow this CUDA device, by number or UUID; repeat it for others (default: none)",
    )
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    _first_free([options.lock])
    if options.device:
        # a device for several jobs is given several times, and has as many locks
        counts = [options.device[:number].count(device) for number, device in enumerate(options.device)]
        folder = Path(tempfile.gettempdir()) / f"nnunet_moe_devices_{os.getuid()}"
        places = [folder / f"{device}_{count}" for device, count in zip(options.device, counts, strict=True)]
        os.environ["CUDA_VISIBLE_DEVICES"] = options.device[_first_free(places)]
    print(f"+ {shlex.join(options.command)}", flush=True)
    os.execvp(options.command[0], options.command)


def _first_free(files: Sequence[Path]) -> int:
    """Wait until one of the locks is free, take it, and return its number."""
    said = False
    while True:
        for number, file in enumerate(files):
            if hold(file) is not None:
                return number
        if not said:
            print(f"waiting: other processes hold {', '.join(file.name for file in files)}", flush=True)
            said = True
        time.sleep(SECONDS_BETWEEN_TRIES)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
