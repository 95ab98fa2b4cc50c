"""Run a command in a process that `preloaded.py` forks, as if it ran in this one.

    python -IS preloaded_client.py SOCKET PROGRAM ARGUMENT ...

A `python` that runs neither a file, nor standard input, nor this package, nor a worker of multiprocessing is Python
itself.
"""

import json
import os
import socket
import sys


def main() -> None:
    address, program, *arguments = sys.argv[1:]
    if os.path.basename(program).startswith("python"):
        what, last = arguments[:2], arguments[-1:]
        is_script = what[:1] == ["-"] or (bool(what) and what[0].endswith(".py"))
        if not (is_script or what == ["-m", "nnunet_moe"] or last == ["--multiprocessing-fork"]):
            os.execv(program, [program, *arguments])
    files = [number for number in map(int, os.listdir("/proc/self/fd")) if is_open(number)]
    request = {"program": program, "arguments": arguments, "numbers": files}
    content = json.dumps({**request, "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [len(content).to_bytes(8, "big")], files)
        connection.sendall(content)
        for number in files:
            if number > 2:  # pipes and locks, which end with the forked process
                os.close(number)
        code = int(connection.recv(8) or 1)
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:  # of the folder that was listed
        return False
    return True


if __name__ == "__main__":
    main()
