import time

import pytest

from nnunet_moe.runtime.network_time import NetworkTime


def test_the_share_is_that_of_the_blocks_also_of_one_that_fails(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    measured = NetworkTime()
    now += 5
    with measured.running():
        now += 20
    now += 10
    with pytest.raises(ZeroDivisionError), measured.running():
        now += 5
        raise ZeroDivisionError
    assert measured.sentence() == "The network ran for 25 of 40 s (62%)."
