"""The time that a study still takes, against schedules that were written down by hand."""

import numpy as np
import pytest

from nnunet_moe.commands.study.estimate import duration, expected_seconds, seconds_left
from nnunet_moe.commands.study.jobs import Job

JOBS = {
    "plans/plans": Job(()),
    "train/a": Job((), ("plans/plans",), "small"),
    "evaluate/a": Job((), ("train/a",), "small on x"),
    "train/b": Job((), ("plans/plans",), "large"),
    "evaluate/b": Job((), ("train/b",), "large on x"),
    "train/c": Job((), ("plans/plans",), "small"),
    "evaluate/c": Job((), ("train/c",), "small on x"),
}
SECONDS = {"train/a": 10.0, "train/b": 100.0, "train/c": 10.0, "evaluate/a": 1.0, "evaluate/b": 2.0, "evaluate/c": 1.0}


def test_a_job_is_expected_to_take_as_long_as_those_like_it_else_as_those_of_its_kind():
    assert expected_seconds(JOBS, {}) == {}
    assert expected_seconds(JOBS, {"train/a": 10.0, "train/b": 100.0}) == {"train/a": 10, "train/b": 100, "train/c": 10}
    assert expected_seconds(JOBS, {"train/a": 10.0, "evaluate/a": 3.0}) == {
        **dict.fromkeys(("train/a", "train/b", "train/c"), 10),
        **dict.fromkeys(("evaluate/a", "evaluate/b", "evaluate/c"), 3),
    }


@pytest.mark.parametrize(
    ("num_jobs", "done", "running", "seconds"),
    [
        (1, {"plans/plans"}, {}, 124.0),
        (1, set(), {}, 124.0),  # plans count as 0 s
        (2, set(), {}, 102.0),  # b and its evaluation; next to it a, its evaluation, c, its evaluation
        (9, set(), {}, 102.0),
        (1, {"plans/plans", "train/a", "train/b"}, {}, 14.0),
        (2, {"plans/plans", "train/a"}, {"train/b": 60.0}, 42.0),  # 1 + 10 + 1 s next to b
        (2, {"plans/plans", "train/a"}, {"train/b": 95.0}, 12.0),  # 1 + 10 + 1 s after 5 + 2 s of b
        (1, {"plans/plans", "train/a", "evaluate/a"}, {"train/b": 500.0}, 13.0),  # it should have ended
        (1, set(JOBS), {}, 0.0),
    ],
)
def test_the_time_left_is_that_of_a_schedule_in_the_order_of_the_jobs(num_jobs, done, running, seconds):
    assert seconds_left(JOBS, done, SECONDS, num_jobs, running) == seconds


def test_the_time_left_on_one_device_is_a_sum_and_on_many_the_longest_chain():
    times = dict(zip(JOBS, np.random.default_rng(0).integers(1, 99, len(JOBS)).astype(float), strict=True))
    on_device = {name: time for name, time in times.items() if not name.startswith("plans/")}
    assert seconds_left(JOBS, {"plans/plans"}, times, 1, {}) == sum(on_device.values())
    chains = [times["plans/plans"] + times[f"train/{name}"] + times[f"evaluate/{name}"] for name in "abc"]
    assert seconds_left(JOBS, set(), times, 3, {}) == max(chains)


def test_a_duration_as_text():
    assert [duration(seconds) for seconds in (0, 89, 90, 5369, 5400)] == [
        "0 s",
        "89 s",
        "2 min",
        "89 min",
        "1 h 30 min",
    ]
