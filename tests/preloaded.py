"""Commands and worker processes that are forked from one process, which has imported torch and nnU-Net once.

These imports cost six seconds of CPU, and the tests start hundreds of processes. What runs is the command's own console
script, or Python's own start of a worker; only the imports are shared. A folder has a small program
(`preloaded_client.py`) for each console script and one for `python`. It sends its arguments, environment, folder and
open files to the server, waits, and ends as the forked process does. If it is killed, the forked process is killed too.

A forked process differs from one of its own in three points: its parent is the server, every signal to the program
reaches it as SIGKILL, and variables that are read during the imports have the values that they have in the tests.
"""

import gc
import importlib
import json
import multiprocessing.spawn
import os
import random
import runpy
import selectors
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import F_DUPFD_CLOEXEC, fcntl
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

CLIENT = Path(__file__).with_name("preloaded_client.py")
COMMANDS = ("plan_and_preprocess", "train", "predict", "predict_from_modelfolder")
MODULES = (
    "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints",
    "nnunetv2.inference.predict_from_raw_data",
    "nnunetv2.run.run_training",
    *(f"nnunet_moe.commands.{name}.command" for name in ("evaluate", "export", "package", "predict", "study")),
    "nnunet_moe.commands.plan_and_preprocess.command",
    "nnunet_moe.trainers.moesd",
)
FIRST_COPY = 200
"""Copies of a request's open files have numbers from here on, out of the way of the numbers that they shall get."""


@contextmanager
def preloaded(folder: Path) -> Iterator[Path]:
    """Run the server during the block, and return the path of its `python`, beside which the commands are."""
    folder.mkdir()
    real, address = Path(sys.executable), folder / "socket"
    for name in ("python", "nnunet_moe", *(f"nnUNetv2_{command}" for command in COMMANDS)):
        program = real if name == "python" else real.with_name(name)
        client = shlex.join(map(str, (real, "-IS", CLIENT, address, program)))
        (folder / name).write_text(f'#!/bin/sh\nexec {client} "$@"\n')
        (folder / name).chmod(0o755)
    command = [real, "-u", __file__, address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None and server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield folder / "python"
        server.stdin.close()


class Request(NamedTuple):
    program: str
    arguments: list[str]
    folder: str
    environment: dict[str, str]
    numbers: list[int]
    """The numbers of the program's open files."""
    files: list[int]
    """The same files as the server received them."""


class Forked(NamedTuple):
    process: int
    ended: int
    """A file that becomes readable when the process ends."""
    connection: socket.socket
    """To the program that asked for the process; readable when the program was killed."""


class Server:
    def __init__(self, address: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(address)
        self.listener.listen(64)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(0, selectors.EVENT_READ)

    def serve(self) -> Request:
        """Fork a process for each request until standard input ends, and return the request in that process."""
        while True:
            for key, _ in self.selector.select():
                if self.selector.get_map().get(key.fd) is not key:
                    continue  # closed since
                if key.fileobj == 0:
                    for forked in self.running():
                        os.kill(forked.process, signal.SIGKILL)
                    sys.exit()
                elif key.fileobj is self.listener:
                    if (request := self.accept()) is not None:
                        return request
                elif key.fileobj is key.data.connection:
                    os.kill(key.data.process, signal.SIGKILL)
                    self.selector.unregister(key.fileobj)
                else:
                    self.finish(key.data)

    def running(self) -> set[Forked]:
        return {key.data for key in self.selector.get_map().values() if key.data is not None}

    def accept(self) -> Request | None:
        """Fork a process, and return the request in it and None in the server."""
        connection = self.listener.accept()[0]
        try:
            request = received(connection)
        except ConnectionError:
            connection.close()
            return None
        if (process := os.fork()) == 0:
            # the request may have files of the same numbers
            others = {file for forked in self.running() for file in (forked.connection, forked.ended)}
            self.selector.close()
            for file in (self.listener, connection, *others):
                os.close(file if isinstance(file, int) else file.detach())
            return request
        for file in request.files:
            os.close(file)
        forked = Forked(process, os.pidfd_open(process), connection)
        self.selector.register(forked.connection, selectors.EVENT_READ, forked)
        self.selector.register(forked.ended, selectors.EVENT_READ, forked)
        return None

    def finish(self, forked: Forked) -> None:
        """Tell the program how its process ended."""
        code = os.waitstatus_to_exitcode(os.waitpid(forked.process, 0)[1])
        with suppress(OSError):  # the program was killed
            forked.connection.sendall(str(code).encode())
        for file in (forked.connection, forked.ended):
            with suppress(KeyError):
                self.selector.unregister(file)
        forked.connection.close()
        os.close(forked.ended)


def received(connection: socket.socket) -> Request:
    """Read a request.

    Raises:
        ConnectionError: the program was killed before it had sent it all.
    """
    size, files, *_ = socket.recv_fds(connection, 8, 250)
    content = b""
    while len(content) < int.from_bytes(size, "big") or not size:
        if not (part := connection.recv(1 << 16)):
            for file in files:
                os.close(file)
            raise ConnectionError
        content += part
    return Request(**json.loads(content), files=files)


def take_over(request: Request) -> None:
    """Give this process the open files, folder and environment of the program that sent the request."""
    copies = [fcntl(file, F_DUPFD_CLOEXEC, FIRST_COPY) for file in request.files]
    for file in request.files:
        os.close(file)
    for copy, number in zip(copies, request.numbers, strict=True):
        os.dup2(copy, number)
        os.close(copy)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    random.seed()
    np.random.seed()


def run(program: Path, arguments: list[str]) -> None:
    """Run what `program` would run."""
    if not program.name.startswith("python"):
        sys.argv = [str(program), *arguments]
        sys.path.insert(0, str(program.parent.absolute()))
        run_as_main(program.read_text(), str(program.absolute()))
    elif arguments[0].endswith(".py"):
        run(Path(arguments[0]), arguments[1:])
    else:
        sys.path.insert(0, os.getcwd())
        option = next(number for number, argument in enumerate(arguments) if argument in ("-", "-c", "-m"))
        what, *rest = arguments[option:]
        sys.argv = [what, *(rest if what == "-" else rest[1:])]
        if what == "-m":
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            run_as_main(sys.stdin.read() if what == "-" else rest[0], None)


def run_as_main(code: str, file: str | None) -> None:
    main = sys.modules["__main__"] = ModuleType("__main__")
    if file is not None:
        main.__file__ = file
    exec(compile(code, file or "<string>", "exec"), vars(main))


def main() -> None:
    sys.executable = str(Path(sys.argv[1]).with_name("python"))
    multiprocessing.spawn.set_executable(sys.executable)
    server = Server(sys.argv[1])
    sys.path.pop(0)  # this folder
    for name in MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    print("ready")  # noqa: T201 - the tests wait for it
    request = server.serve()
    take_over(request)
    run(Path(request.program), request.arguments)


if __name__ == "__main__":
    main()
