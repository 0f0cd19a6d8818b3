"""The closed form of a phase's time, beside a simulation of the same phase piece by piece."""

import heapq
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blm.pipelines.planning.phases import Phase, alone, spread


def played_through(pieces: int, piece_s: float, workers: int, driver_s: float, storage_s: float) -> float:
    """Seconds until the last piece is written: the driver hands pieces out one after another, any free worker takes the
    next, and results pass through one storage.
    """
    free = [0.0] * workers
    heapq.heapify(free)
    driver = storage = end = 0.0
    for _ in range(pieces):
        driver += driver_s
        done = max(driver, heapq.heappop(free)) + piece_s
        heapq.heappush(free, done)
        storage = max(storage, done) + storage_s
        end = max(end, storage)
    return end


@settings(max_examples=200, deadline=None)
@given(
    pieces=st.integers(1, 300),
    piece_s=st.floats(0.01, 10),
    workers=st.integers(1, 64),
    driver_s=st.floats(0.0, 1.0),
    storage_s=st.floats(0.0, 1.0),
)
def test_the_closed_form_is_the_simulation_but_for_a_first_and_a_last_piece(
    pieces: int, piece_s: float, workers: int, driver_s: float, storage_s: float
) -> None:
    parts, fill = spread(
        units=pieces,
        unit_s=piece_s,
        workers=workers,
        piece_driver_s=driver_s,
        unit_bytes=storage_s,
        bytes_s=1.0,
    )
    predicted = Phase(name="one", parts=parts, fill_s=fill).seconds
    real = played_through(pieces, piece_s, workers, driver_s, storage_s)
    slack = 2 * piece_s + driver_s * (workers + 1) + storage_s * (workers + 1)  # pieces come in rounds
    assert real - slack <= predicted <= real + piece_s + 1e-9


def test_the_busiest_resource_is_the_bottleneck_and_start_up_if_nothing_is_longer() -> None:
    assert Phase(name="one", start_s=1.0, parts={"driver": 3.0, "storage": 4.0}).bottleneck == "storage"
    assert Phase(name="one", start_s=5.0, parts={"driver": 3.0, "storage": 4.0}).bottleneck == "start-up"
    assert Phase(name="one", start_s=5.0).bottleneck == "start-up"


def test_pieces_that_cannot_be_shared_out_leave_workers_idle() -> None:
    parts, _ = spread(units=100, unit_s=1.0, workers=3, piece=50)
    assert parts["workers"] == pytest.approx(50.0)  # two pieces: the third worker has none
    parts, _ = spread(units=100, unit_s=1.0, workers=2, piece=10)
    assert parts["workers"] == pytest.approx(50.0)


def test_nothing_to_do_takes_no_time() -> None:
    assert spread(units=0, unit_s=1.0, workers=2) == ({}, 0.0)
    assert alone(0.0) == {}
    assert Phase(name="none").seconds == 0.0
    assert math.isclose(Phase(name="some", parts=alone(2.5)).seconds, 2.5)
