"""Where and how the jobs of a study run: the device, the GPUs, the threads, or the profile of a cluster."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nnunet_moe.errors import SettingsError
from nnunet_moe.runtime.threads import usable_cores, wanted_threads

PROFILES = Path(__file__).parent / "profiles"


@dataclass(frozen=True)
class Machine:
    """Where and how the jobs run."""

    device: str
    """`cpu`, `cuda` or `mps`."""
    num_jobs: int | None = None
    """Number of jobs at a time on this machine; by default one for each GPU, or one."""
    profile: str | None = None
    """Snakemake's profile for a cluster: one that comes with this package, or a folder."""
    more: tuple[str, ...] = ()
    """More options for Snakemake."""
    gpus: tuple[int, ...] = ()
    """Numbers of the GPUs to use; by default those of CUDA_VISIBLE_DEVICES, or all."""

    @property
    def jobs_at_a_time(self) -> int | None:
        """Number of jobs at a time; None on a cluster, where the profile decides."""
        return None if self.profile is not None else self.num_jobs or max(1, len(self._gpus()))

    @property
    def devices(self) -> list[str]:
        """The CUDA device of each job at a time; empty on a cluster, which assigns devices itself."""
        gpus = self._gpus()
        return [gpus[job % len(gpus)] for job in range(self.jobs_at_a_time or 0)] if gpus else []

    @property
    def threads(self) -> int:
        """Number of threads of each job, for OMP_NUM_THREADS and similar variables.

        It is the user's OMP_NUM_THREADS if set, else the job's share of the cores. With a profile it is 1, unless the
        profile sets threads.
        """
        if self.profile is not None:
            return 1
        return wanted_threads() or max(1, usable_cores() // (self.jobs_at_a_time or 1))

    def options(self) -> list[str]:
        """Return the options for Snakemake.

        Raises:
            SettingsError: the profile does not exist.
        """
        if self.profile is None:
            cores = max(self.jobs_at_a_time or 1, usable_cores())
            # ignore SNAKEMAKE_PROFILE, which is meant for other workflows, and keep the order strictly
            where = ["--profile", "none", "--scheduler", "greedy", "--cores", str(cores)]
            return [*where, "--resources", f"devices={self.jobs_at_a_time}"]
        for folder in (PROFILES / self.profile, Path(self.profile)):
            if folder.is_dir():
                return ["--profile", str(folder.resolve())]
        known = ", ".join(sorted(folder.name for folder in PROFILES.iterdir()))
        raise SettingsError(
            f"--profile {self.profile} does not exist. Give a folder, or a profile of this package: {known}."
        )

    def require_gpus(self) -> None:
        """Check that the GPUs of `gpus` exist and may be used.

        Raises:
            SettingsError: they do not.
        """
        usable = replace(self, gpus=())._gpus()
        if unknown := [str(gpu) for gpu in self.gpus if str(gpu) not in usable]:
            limited = " (CUDA_VISIBLE_DEVICES)" if os.environ.get("CUDA_VISIBLE_DEVICES") else ""
            raise SettingsError(
                f"-gpus names {', '.join(unknown)}. The GPUs here{limited} are: {', '.join(usable) or 'none'}. Choose "
                "from these."
            )

    def gpu_memory(self) -> dict[str, int]:
        """Return the memory of each GPU that jobs use, in bytes; empty where torch finds none."""
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        visible = replace(self, gpus=())._gpus()[:found]
        used = [gpu for gpu in dict.fromkeys(self._gpus()) if gpu in visible]
        return {gpu: torch.cuda.get_device_properties(visible.index(gpu)).total_memory for gpu in used}

    @property
    def lacks_a_gpu(self) -> bool:
        """Whether the jobs would fail here, because they need a GPU and torch finds none."""
        return self.device == "cuda" and self.profile is None and not torch.cuda.is_available()

    def _gpus(self) -> list[str]:
        if self.device != "cuda" or self.profile is not None:
            return []
        if self.gpus:
            return list(map(str, self.gpus))
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        return [gpu.strip() for gpu in given.split(",")] if given else list(map(str, range(torch.cuda.device_count())))
