"""Containers without Docker: Linux namespaces with a file system of their own, no network and an unknown user.

Of this machine's files a contained process sees the system's, Python's, and what is bound; all read-only, but for the
folders that are bound to be written in and an empty `/tmp`. There is no `/dev/shm`, and the home is empty.
"""

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

SYSTEM = ("/usr", "/etc/ld.so.cache")
SYSTEM_LINKS = ("/bin", "/lib", "/lib64")
ROOT = str(Path(__file__).resolve().parents[1])
"""This checkout, which an editable install points to."""
HOME = "/home/somebody"
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")

SCRIPT = r"""
set -eu
root=$1
uid=$2
gid=$3
shift 3
mount -t tmpfs -o mode=755 container "$root"
bind() { # SOURCE TARGET OPTION
    if [ -d "$1" ]; then mkdir -p "$root$2"; else mkdir -p "$root$(dirname "$2")" && touch "$root$2"; fi
    mount --bind "$1" "$root$2"
    if [ "$3" = ro ]; then mount -o remount,bind,ro "$root$2"; fi
}
while [ "$1" != -- ]; do
    case $1 in
        link) mkdir -p "$root$(dirname "$3")" && ln -s "$2" "$root$3" ;;
        proc) mkdir -p "$root/proc" && mount --rbind /proc "$root/proc" ;;
        empty) mkdir -p "$root$3" ;;
        tmp) mkdir -p "$root$3" && mount -t tmpfs -o mode=1777 container "$root$3" ;;
        *) bind "$2" "$3" "$1" ;;
    esac
    shift 3
done
shift
cd "$root"
mkdir outside
pivot_root . outside # not chroot: in one no further namespace can be made
umount --lazy /outside
rmdir /outside
mount -o remount,ro /
exec /usr/bin/unshare --user --map-user="$uid" --map-group="$gid" /usr/bin/env -i "$@"
"""


def can_contain() -> bool:
    """Whether this machine lets its users make namespaces."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*_unshare(), "true"], capture_output=True).returncode == 0


def run_contained(
    command: Sequence[str],
    folder: Path,
    *,
    read_only: Mapping[str, Path],
    writable: Mapping[str, Path],
    environment: Mapping[str, str],
    user: str,
) -> subprocess.CompletedProcess[str]:
    """Run a command in a container.

    Args:
        folder: an empty one, where the container's root is mounted.
        read_only: path in the container -> file or folder here; Python and its packages are there already.
        writable: the same, folders that anyone may write in.
        environment: all that the process gets of one, besides its home.
        user: numbers of user and group, `1000:1000`; whoever it is may do nothing that others may not.
    """
    mounts = [("proc", "-", "-"), ("tmp", "-", "/tmp"), ("empty", "-", HOME)]  # before what may lie in them
    mounts += [("link", _target(link), link) for link in SYSTEM_LINKS if Path(link).is_symlink()]
    mounts += [("ro", path, path) for path in SYSTEM if Path(path).exists()]
    mounts += [("rw", path, path) for path in DEVICES]
    mounts += [("ro", path, path) for path in sorted({ROOT, sys.base_prefix, _python_home(), sys.prefix} - {"/usr"})]
    mounts += [("ro", str(path), inside) for inside, path in read_only.items()]
    mounts += [("rw", str(path), inside) for inside, path in writable.items()]
    words = [word for mount in mounts for word in mount]
    variables = [f"{name}={value}" for name, value in {**environment, "HOME": HOME}.items()]
    return subprocess.run(
        [*_unshare(), "sh", "-c", SCRIPT, "sh", str(folder), *user.split(":"), *words, "--", *variables, *command],
        capture_output=True,
        text=True,
    )


def _unshare() -> list[str]:
    return ["unshare", "--user", "--map-root-user", "--mount", "--net", "--ipc"]


def _target(link: str) -> str:
    return str(Path(link).readlink())


def _python_home() -> str:
    return str(Path(sys.executable).resolve().parents[1])
