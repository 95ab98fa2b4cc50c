"""Estimate how long the jobs of a study still take."""

import heapq
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from nnunet_moe.commands.study.jobs import ON_A_DEVICE, Job


def expected_seconds(jobs: Mapping[str, Job], measured: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds that each job is expected to take. Jobs without finished ones to compare with are left out.

    The expectation is the mean of the finished jobs that are like it, or of all finished jobs of its kind.

    Args:
        jobs: all jobs of the study.
        measured: finished job -> seconds.
    """
    alike, of_kind = defaultdict(list), defaultdict(list)
    for name, seconds in measured.items():
        kind = name.split("/")[0]
        alike[kind, jobs[name].like].append(seconds)
        of_kind[kind].append(seconds)
    found = {}
    for name, job in jobs.items():
        kind = name.split("/")[0]
        if times := alike.get((kind, job.like)) or of_kind.get(kind):
            found[name] = mean(times)
    return found


def seconds_left(
    jobs: Mapping[str, Job],
    done: Collection[str],
    expected: Mapping[str, float],
    num_jobs: int,
    running: Mapping[str, float],
) -> float:
    """Return the seconds until all jobs are done, if they start in their order as soon as they can.

    Args:
        jobs: all jobs, in the order in which they start.
        done: the jobs that are done.
        expected: job -> seconds from start to end. Other jobs count as 0 s.
        num_jobs: number of jobs on devices at a time.
        running: job that runs now -> seconds since its start.
    """
    now, finished = 0.0, set(done)
    ends = [(max(0.0, expected.get(job, 0.0) - elapsed), job) for job, elapsed in running.items()]
    heapq.heapify(ends)
    waiting = [job for job in jobs if job not in finished and job not in running]
    while waiting or ends:
        free = num_jobs - sum(_is_on_device(job) for _, job in ends)
        for job in list(waiting):
            is_ready = all(need in finished or need not in jobs for need in jobs[job].needs)
            if is_ready and (free > 0 or not _is_on_device(job)):
                waiting.remove(job)
                free -= _is_on_device(job)
                heapq.heappush(ends, (now + expected.get(job, 0.0), job))
        now = ends[0][0]
        while ends and ends[0][0] == now:
            finished.add(heapq.heappop(ends)[1])
    return now


def mean(times: Sequence[float]) -> float:
    """Return the mean of at least one duration."""
    return sum(times) / len(times)


def duration(seconds: float) -> str:
    """Return a duration as text, in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _is_on_device(job: str) -> bool:
    return job.split("/")[0] in ON_A_DEVICE
