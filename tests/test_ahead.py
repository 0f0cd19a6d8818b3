"""Things made ahead: in order, not too many, and never left behind."""

import threading
import time
from functools import partial

import pytest

from blm.pipelines.ahead import ahead


@pytest.mark.parametrize("threads", [1, 3])
def test_they_come_in_order_and_not_too_many_are_made_before_they_are_asked_for(threads: int) -> None:
    made: list[int] = []
    three = threading.Event()

    def make(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        made.append(number)
        if len(made) == 3:
            three.set()
        return number

    results = ahead((partial(make, number) for number in range(12)), depth=2, threads=threads)
    assert next(results) == 0
    assert three.wait(30)
    time.sleep(0.05)
    assert sorted(made) == [0, 1, 2]  # one taken, two waiting
    assert list(results) == list(range(1, 12))


def test_what_goes_wrong_comes_out_where_its_result_would_have() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise ValueError("bad row")
        return number

    made = ahead((partial(make, number) for number in range(5)), depth=2)
    assert [next(made), next(made)] == [0, 1]
    with pytest.raises(ValueError, match="bad row"):
        next(made)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_generator_that_is_left_early_ends_its_threads(threads: int) -> None:
    before = threading.active_count()
    made = ahead((partial(int, number) for number in range(1000)), depth=4, threads=threads)
    assert next(made) == 0
    assert before < threading.active_count() <= before + threads
    made.close()
    assert threading.active_count() == before


def test_they_are_made_while_the_taker_does_something_else() -> None:
    asked, made = threading.Event(), threading.Event()

    def make(number: int) -> int:
        if number == 1:
            assert not asked.is_set()
            made.set()
        return number

    results = ahead((partial(make, number) for number in range(2)), depth=1)
    assert next(results) == 0
    assert made.wait(30)
    asked.set()
    assert next(results) == 1
