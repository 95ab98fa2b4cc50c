"""The forked processes of `preloaded.py` are to their callers what processes of their own are."""

import os
import signal
import subprocess

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs pidfd_open, which only Linux has"),
]


@pytest.fixture
def program(tmp_path):
    def write(*lines: str):
        (tmp_path / "program.py").write_text("\n".join(["import os, signal, sys", *lines]))
        return tmp_path / "program.py"

    return write


def test_a_program_gets_its_callers_arguments_folder_environment_and_files(preloaded_python, program, tmp_path):
    asked = "sys.argv, os.getcwd(), os.environ['ASKED'], sys.stdin.read(), 'torch' in sys.modules, __name__, __file__"
    file = program(f"print([{asked}])", "print('no', file=sys.stderr)", "sys.exit(7)")
    environment = {**os.environ, "ASKED": "yes"}
    command = [preloaded_python, file.name, "two words"]
    done = subprocess.run(command, input="typed", cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == f"{[[file.name, 'two words'], str(tmp_path), 'yes', 'typed', True, '__main__', str(file)]}\n"
    assert (done.stderr, done.returncode) == ("no\n", 7)


def test_a_program_that_is_read_from_standard_input_runs_and_its_error_is_status_1(preloaded_python):
    script = "import sys\nprint('torch' in sys.modules)\nraise ValueError('wrong')"
    done = subprocess.run([preloaded_python, "-"], input=script, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("True\n", 1) and done.stderr.endswith("ValueError: wrong\n")


def test_a_signal_that_ends_a_program_is_its_status(preloaded_python, program):
    file = program("os.kill(os.getpid(), signal.SIGTERM)")
    assert subprocess.run([preloaded_python, file]).returncode == -signal.SIGTERM


def test_a_program_that_is_killed_is_gone(preloaded_python, program):
    """It inherits the end of a pipe, which is closed when nobody holds it any more."""
    read, write = os.pipe()
    file = program("os.write(int(sys.argv[1]), b'x')", "signal.pause()")
    process = subprocess.Popen([preloaded_python, file, str(write)], pass_fds=[write])
    os.close(write)
    assert os.read(read, 1) == b"x"
    process.kill()
    assert os.read(read, 1) == b"" and process.wait() == -signal.SIGKILL
    os.close(read)
