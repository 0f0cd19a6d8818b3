"""Whatever is killed during an evaluation, its file comes out the same, and every episode is in it once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_kills
from small_kills import CELLS, Killer, evaluate_toys, lines_of

from blm.pipelines.evaluation.books import EPISODES, TIMINGS

KILLS = int(os.environ.get("BLM_KILLS", "8"))
EPISODES_A_CELL = 40

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def undisturbed(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of an evaluation by one actor that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert evaluate_toys(folder, EPISODES_A_CELL, actors=1, round_s=0.0) == 0
    return (folder / EPISODES).read_bytes()


@pytest.mark.parametrize("actors", [2, 8])
def test_any_number_of_actors_writes_the_same_bytes(tmp_path: Path, undisturbed: bytes, actors: int) -> None:
    evaluate_toys(tmp_path, EPISODES_A_CELL, actors=actors, round_s=0.005)
    assert (tmp_path / EPISODES).read_bytes() == undisturbed


def test_actors_killed_at_random_change_nothing(tmp_path: Path, undisturbed: bytes) -> None:
    killer = Killer("ToyWorker", tmp_path, kills=KILLS, episodes=EPISODES_A_CELL * len(CELLS))
    killer.start()
    deaths = evaluate_toys(tmp_path, EPISODES_A_CELL, actors=2, round_s=0.02)
    killer.join(timeout=10)
    assert killer.killed == KILLS
    assert deaths == KILLS
    assert (tmp_path / EPISODES).read_bytes() == undisturbed
    assert (tmp_path / TIMINGS).read_bytes().count(b"\n") == EPISODES_A_CELL * len(CELLS)


def test_a_driver_that_is_killed_goes_on_where_it_was(tmp_path: Path, undisturbed: bytes) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen(
        [sys.executable, small_kills.__file__, str(tmp_path), str(EPISODES_A_CELL), "0.1"],
        env=os.environ | {"RAY_ADDRESS": address},
        stdout=subprocess.DEVNULL,
    )
    deadline_s = time.monotonic() + 60
    while lines_of(tmp_path) < 10 and time.monotonic() < deadline_s:
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = lines_of(tmp_path)
    assert 10 <= before < EPISODES_A_CELL * len(CELLS)
    with (tmp_path / EPISODES).open("ab") as file:
        file.write(b'{"cell":"panda/Pu')  # a kill can come in the middle of a line, too
    evaluate_toys(tmp_path, EPISODES_A_CELL, actors=2, round_s=0.0)
    assert (tmp_path / EPISODES).read_bytes() == undisturbed
