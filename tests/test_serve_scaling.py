"""Replicas that come and go: what decides it, how one learns that it has to go, and what clients notice of it all."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from live_server import started
from small_server import STATE, picture

from blm.cluster.ray_corners import replica_stops
from blm.model.errors import UserError
from blm.model.types import ActionChunk, ComputeTiming, Observation, Prefixes
from blm.pipelines.benchmarks.serve_chaos import kill_only, upgrade
from blm.pipelines.benchmarks.serve_chaos_load import Ended, Load, gap_s, steadiness
from blm.pipelines.benchmarks.serve_chaos_server import CONFIG
from blm.pipelines.benchmarks.serve_processes import Served
from blm.serve import drain
from blm.serve.autoscaling import PRESSURE, WINDOW_S, Latencies, autoscaling, replicas_wanted
from blm.serve.config import ReplicasConfig
from blm.serve.control_pool import ControlPool
from blm.serve.sessions.session import BusyError

TIMING = ComputeTiming(preprocess_ms=1.0, mllm_ms=2.0, denoise_ms=3.0)


@dataclass(frozen=True)
class Split:
    """Where an answer's time went."""

    total_ms: float
    queue_ms: float


# ------------------------------------------------------------------------------------------------- how many there are


def wanted(*, running: int, ongoing: float, target: float = 4.0, pressures: Sequence[float] = ()) -> float:
    """What the policy says; Ray Serve rounds up."""
    context = SimpleNamespace(
        current_num_replicas=running,
        total_num_requests=ongoing,
        aggregated_metrics={PRESSURE: dict(enumerate(pressures))} if pressures else None,
        config=SimpleNamespace(get_target_ongoing_requests=lambda: target),
    )
    return replicas_wanted(context)[0]


def test_a_pool_has_enough_replicas_for_its_requests() -> None:
    assert wanted(running=1, ongoing=9.0) == 9 / 4
    assert wanted(running=3, ongoing=0.0) == 0.0


def test_replicas_that_are_late_are_multiplied_by_how_late_they_are_and_by_two_at_most() -> None:
    assert wanted(running=2, ongoing=1.0, pressures=[1.4, 1.6]) == 3.0
    assert wanted(running=2, ongoing=1.0, pressures=[9.0, 9.0]) == 4.0


def test_answers_in_time_ask_for_no_more_replicas_and_keep_those_that_make_them_so() -> None:
    assert wanted(running=2, ongoing=1.0, pressures=[0.9, 0.9]) == pytest.approx(1.8)  # rounded up: both
    assert wanted(running=2, ongoing=1.0, pressures=[0.2, 0.2]) == pytest.approx(0.4)  # one will do


def test_the_policy_survives_the_way_to_the_controller() -> None:
    from ray.serve.config import AutoscalingConfig

    options = autoscaling(ReplicasConfig(min=0, max=4, ongoing=7.0, more_after_s=3.0))["autoscaling_config"]
    config = AutoscalingConfig(**options)
    assert config.get_target_ongoing_requests() == 7.0
    function = config.policy.get_policy()
    context = SimpleNamespace(
        current_num_replicas=1, total_num_requests=14, aggregated_metrics={PRESSURE: {"a": 1.5}}, config=config
    )
    assert function(context) == (2.0, {})


def test_a_pool_of_fixed_size_has_no_autoscaling() -> None:
    assert autoscaling(ReplicasConfig(min=2, max=2)) == {"num_replicas": 2}


def test_pressure_is_the_latency_that_nearly_all_answers_stay_below() -> None:
    latencies = Latencies(100.0)
    assert latencies.pressure() == 0.0
    for _ in range(19):
        latencies.add(Split(total_ms=50.0, queue_ms=0.0))
    latencies.add(Split(total_ms=900.0, queue_ms=800.0))
    assert latencies.pressure() == 0.5


def test_a_slow_pass_without_waiting_asks_for_no_replica() -> None:
    latencies = Latencies(100.0)
    for _ in range(10):
        latencies.add(Split(total_ms=300.0, queue_ms=5.0))
    assert latencies.pressure() == 1.0
    for _ in range(200):
        latencies.add(Split(total_ms=300.0, queue_ms=200.0))
    assert latencies.pressure() == 3.0


def test_old_answers_and_pools_without_a_target_press_nobody() -> None:
    now = [0.0]
    latencies = Latencies(100.0, clock=lambda: now[0])
    latencies.add(Split(total_ms=500.0, queue_ms=400.0))
    assert latencies.pressure() == 5.0
    now[0] = WINDOW_S + 1
    assert latencies.pressure() == 0.0
    indifferent = Latencies(0.0)
    indifferent.add(Split(total_ms=500.0, queue_ms=400.0))
    assert indifferent.pressure() == 0.0


# ---------------------------------------------------------------------------------------------------- control replicas


class Remote:
    """A method of a handle of Ray Serve's: `remote` gives something to wait for."""

    def __init__(self, function: Callable[..., Awaitable[Any]]) -> None:
        self.remote = function


class Handle:
    """Of `control` replicas that start when they are first asked, as Ray Serve's do."""

    def __init__(self, *, start_s: float = 0.02, error: Exception | None = None) -> None:
        self.act, self.ready = Remote(self._act), Remote(self._ready)
        self.error, self._start_s, self.started = error, start_s, 0

    async def _ready(self) -> bool:
        await asyncio.sleep(self._start_s)
        self.started += 1
        return True

    async def _act(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None
    ) -> tuple[list[ActionChunk], ComputeTiming]:
        if not self.started:
            await self._ready()
        if self.error is not None:
            raise self.error
        chunk = ActionChunk(actions=np.zeros((4, 8), np.float32), control_hz=20)
        return [chunk for _ in observations], TIMING


OBSERVATION = Observation(
    images={"front": picture()}, state=np.asarray(STATE, np.float32), instruction="push", embodiment="panda"
)


def test_a_pool_that_sleeps_is_woken_and_meanwhile_says_so() -> None:
    async def ask() -> None:
        handle = Handle()
        pool = ControlPool(handle, wait=False)
        for _ in range(3):
            with pytest.raises(BusyError, match="no control replica is ready yet"):
                await pool([OBSERVATION], [0])
        while not handle.started:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        chunks, timing = await pool([OBSERVATION] * 2, [0, 1])
        assert len(chunks) == 2
        assert timing == TIMING
        assert handle.started == 1  # one knock for all

    asyncio.run(ask())


def test_a_pool_without_which_there_is_no_answer_is_waited_for() -> None:
    chunks, _ = asyncio.run(ControlPool(Handle(), wait=True)([OBSERVATION], [0]))
    assert len(chunks) == 1


def test_a_pool_that_fell_asleep_is_given_up_in_time_and_woken_again() -> None:
    async def ask() -> None:
        handle = Handle()
        pool = ControlPool(handle, wait=False, patience_s=0.05)
        with pytest.raises(BusyError):
            await pool([OBSERVATION], [0])
        while not handle.started:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        handle.started, handle._start_s = 0, 0.2
        with pytest.raises(BusyError, match="do not answer"):
            await pool([OBSERVATION], [0])
        with pytest.raises(BusyError, match="no control replica is ready yet"):
            await pool([OBSERVATION], [0])

    asyncio.run(ask())


def test_a_bad_observation_is_told_without_the_other_processes_traceback() -> None:
    from ray.exceptions import RayTaskError

    told = RayTaskError("act", "Traceback ...", UserError("not trained for 'xarm6'")).as_instanceof_cause()
    with pytest.raises(UserError, match=r"^not trained for 'xarm6'$"):
        asyncio.run(ControlPool(Handle(error=told), wait=True)([OBSERVATION], [0]))


# --------------------------------------------------------------------------------------------------- having to go


def test_a_replica_that_has_to_go_ends_its_episodes_once_the_front_knows() -> None:
    seen = []

    async def leave() -> None:
        seen.append("left")

    async def live() -> None:
        going = [False]
        task = asyncio.create_task(drain.when_stopping(leave, look=lambda: going[0], settle_s=0.1))
        await asyncio.sleep(0.05)
        going[0] = True
        await asyncio.sleep(drain.LOOK_EVERY_S)
        assert not seen
        await task

    asyncio.run(live())
    assert seen == ["left"]


def test_outside_of_a_replica_nobody_has_to_go() -> None:
    async def leave() -> None:
        raise AssertionError("nothing to leave")

    assert replica_stops() is None
    asyncio.run(drain.when_stopping(leave))


def test_the_gap_is_the_longest_time_without_a_good_answer() -> None:
    ended = [Ended(at_s=at, ms=10.0, how=how) for at, how in ((1.0, "ok"), (1.5, "500"), (4.0, "ok"), (4.5, "ok"))]
    assert gap_s(Load(ended=ended), 0.5) == 3.0
    assert Load(ended=ended).since(1.2)["failures"] == {"500": 1}
    assert steadiness([100.0, 100.0, 110.0, 110.0]) == 1.1


# --------------------------------------------------------------------------------------------------------- live


@pytest.mark.ray
@pytest.mark.slow
def test_no_client_notices_an_upgrade_and_the_only_replica_takes_nothing_but_its_work_with_it(
    live_model: Path, tmp_path: Path
) -> None:
    config = {**CONFIG, "chat": {"enabled": False}, "model": {"min": 1, "max": 1}, "drain_s": 1.0}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config))
    model = Path(shutil.copytree(live_model, tmp_path / "model"))
    with started(model, tmp_path, ["--config", str(tmp_path / "serve.yaml")]) as server:
        served = Served(process=server.process, url=server.url, log=server.log, start_s=0.0)
        upgraded = upgrade(served, model, tmp_path)
        assert upgraded["failed"] == 0, upgraded
        assert upgraded["robots"]["answered"] > 0
        killed = kill_only(served)  # one robot asks: what was being computed may be lost, what comes then waits
        assert killed["failed"] <= 1, killed
        assert killed["requests"]["answered"] > 0
