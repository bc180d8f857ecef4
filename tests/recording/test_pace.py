"""The loop's clock: deadlines do not drift, and what was late is told."""

import gc
import itertools
import sys
import threading
import time

import pytest

from lerobot_ops.recording.pace import Pace, settled, steady


def test_lateness_does_not_add_up() -> None:
    pace = Pace(200)
    for tick in pace.ticks(seconds=0.25):
        time.sleep(0.001 if tick.number % 2 else 0.003)
        assert tick.due == pytest.approx(pace.began_at + tick.number / 200 + pace.skipped / 200)
        assert tick.began >= tick.due
    timing = pace.timing()
    assert timing.ticks == 50
    assert timing.jitter_ms_max >= timing.jitter_ms_p99 >= 0
    assert timing.work_ms_mean >= 1.5


def test_work_that_takes_too_long_is_an_overrun_and_deadlines_far_behind_are_skipped() -> None:
    pace = Pace(100)
    for tick in pace.ticks(seconds=0.2):
        if tick.number == 3:
            time.sleep(0.055)
        if tick.number == 4:
            assert tick.late < 0.02
    timing = pace.timing()
    assert timing.ticks == 20
    assert timing.overruns >= 1
    assert timing.skipped >= 4


def test_somebody_who_waits_for_a_sign_of_life_gets_one() -> None:
    beats: list[float] = []
    for _ in Pace(2, lambda: beats.append(time.monotonic())).ticks(seconds=1):
        pass
    gaps = [after - before for before, after in itertools.pairwise(beats)]
    assert len(beats) > 15
    assert sorted(gaps)[len(gaps) // 2] < 0.1


def test_the_interpreter_is_as_before_after_the_loop() -> None:
    before = sys.getswitchinterval(), gc.isenabled()
    with settled(), steady():
        assert not gc.isenabled()
        assert sys.getswitchinterval() < before[0]
        started: list[int] = []
        thread = threading.Thread(target=lambda: started.append(1))
        thread.start()
        thread.join()
    assert (sys.getswitchinterval(), gc.isenabled()) == before
    assert started == [1]
