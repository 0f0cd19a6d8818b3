"""The policy server: what it makes of observations, what it computes together, and its doors."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from small_policy import SpoiltPolicy
from small_policy_server import description_of_random, observation, serving

from blm.actors.sim.policies import RandomPolicy
from blm.model.errors import UserError
from blm.model.types import ActionChunk, ComputeTiming, Observation, Prefixes
from blm.pipelines import cli
from blm.serve.batches.answers import InThread
from blm.serve.batches.service import BatchConfig, BatchingService
from blm.serve.sessions.session import BusyError, SessionConfig

QUICK = SessionConfig(grace_s=0.05)


def chunk_of(one: Observation, seed: int) -> np.ndarray:
    return RandomPolicy().infer_batch([one], [seed])[0].actions


# ------------------------------------------------------------------------------------------------------- observations


def test_an_observation_that_does_not_fit_is_refused_in_one_line() -> None:
    description = description_of_random(cameras=("front",), image_px=16)
    good = observation(0, cameras=("front",), px=16)
    front = good.images["front"]

    def read(config: SessionConfig = QUICK, **changes: Any) -> Observation:
        given = {"images": good.images, "state": good.state, "instruction": "go", "robot": "panda", **changes}
        return config.reader(description).observation(**given)

    assert read().embodiment == "panda"
    assert read(SessionConfig(robot="panda"), robot=None).embodiment == "panda"
    large = np.zeros((32, 32, 3), np.uint8)
    assert read(SessionConfig(resize=True), images={"front": large}).images["front"].shape == (16, 16, 3)
    for changes, says in (
        ({"robot": "spot"}, "not trained for 'spot'"),
        ({"state": good.state[:7]}, "needs 8 numbers"),
        ({"state": None}, "needs 8 numbers"),
        ({"state": ["a"] * 8}, "needs 8 numbers"),
        ({"instruction": 3}, "in words"),
        ({"instruction": " "}, "instruction is empty"),
        ({"images": {}}, "no picture of camera 'front'"),
        ({"images": {"front": front.astype(np.float32)}}, "send uint8"),
        ({"images": {"front": front[..., 0]}}, "send uint8"),
        ({"images": {"front": large}}, "send 16x16"),
        ({"images": {"front": "no path!"}}, "'front': not valid base64"),
        ({"images": {"front": b"bytes"}}, "'front': not a readable PNG or JPEG"),
        ({"images": {"front": 3}}, "is int"),
        ({"state": [*good.state[:7], 1e300]}, "NaN or infinite"),
    ):
        with pytest.raises(UserError, match=says):
            read(**changes)


# ------------------------------------------------------------------------------------------------------------ batches


def test_what_comes_together_is_computed_together_and_one_bad_request_spoils_nothing() -> None:
    async def ask() -> None:
        policy = SpoiltPolicy("error", "spoil this")
        service = BatchingService(InThread(policy), description_of_random(), BatchConfig(wait_ms=50))
        good = [observation(number) for number in range(3)]
        with service.client("blm"), service.client("blm"), service.client("blm"):
            answers = await asyncio.gather(*(service.infer([one], [number]) for number, one in enumerate(good)))
        assert service.passes == 1
        assert all(np.array_equal(answers[n][0].chunk.actions, chunk_of(good[n], n)) for n in range(3))
        bad = Observation(images={}, state=good[0].state, instruction="spoil this", embodiment="panda")
        with service.client("blm"), service.client("blm"):
            mixed = await asyncio.gather(
                service.infer(good[:2], [0, 1]), service.infer([bad], [0]), return_exceptions=True
            )
        assert [len(mixed[0]), type(mixed[1]).__name__] == [2, "PolicyError"]

    asyncio.run(ask())


def test_more_than_may_wait_is_refused_at_once() -> None:
    async def ask() -> None:
        service = BatchingService(InThread(RandomPolicy()), description_of_random(), BatchConfig(max_waiting=2))
        first = asyncio.create_task(service.infer([observation()] * 2, [0, 1]))
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await service.infer([observation()], [2])
        assert len(await first) == 2

    asyncio.run(ask())


def test_a_bad_request_among_many_is_found_by_halves() -> None:
    async def ask() -> None:
        policy = SpoiltPolicy("error", "spoil this")
        service = BatchingService(InThread(policy), description_of_random())
        asked = [observation(number) for number in range(8)]
        asked[5] = Observation(images={}, state=asked[5].state, instruction="spoil this", embodiment="panda")
        with ExitStack() as stack:
            for _ in asked:
                stack.enter_context(service.client("blm"))
            answers = await asyncio.gather(*(service.infer([one], [0]) for one in asked), return_exceptions=True)
        assert [type(answer).__name__ for answer in answers] == ["list"] * 5 + ["PolicyError"] + ["list"] * 2
        assert service.passes == 7

    asyncio.run(ask())


class SlowCompute:
    """Random actions that take a while, or an error."""

    def __init__(self, took_s: float, error: Exception | None = None) -> None:
        self.took_s, self.error = took_s, error
        self.calls = 0

    async def __call__(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> tuple[list[ActionChunk], ComputeTiming]:
        self.calls += 1
        await asyncio.sleep(self.took_s)
        if self.error is not None:
            raise self.error
        timing = ComputeTiming(preprocess_ms=1.0, mllm_ms=2.0, denoise_ms=3.0)
        return RandomPolicy().infer_batch(observations, seeds), timing


async def four_after_one(config: BatchConfig, overflow: SlowCompute | None = None) -> list[Any]:
    """What four requests get that come together, where a pass takes 50 ms and has room for one of them."""
    service = BatchingService(SlowCompute(0.05), description_of_random(), config, overflow=overflow)
    await service.infer([observation()], [0])  # now it knows how long a pass takes
    asked = (service.infer([observation()], [seed]) for seed in range(4))
    return await asyncio.gather(*asked, return_exceptions=True)


def test_who_would_wait_too_long_is_refused_before_he_waits() -> None:
    answers = asyncio.run(four_after_one(BatchConfig(max_batch=1, wait_ms=0, most_wait_ms=70)))
    assert [type(answer).__name__ for answer in answers] == ["list", "list", "BusyError", "BusyError"]
    assert answers[2].retry_after_s == 1
    assert answers[1][0].timing.queue_ms > 30


@pytest.mark.parametrize(
    ("error", "calls", "kind"),
    [(None, 3, "list"), (BusyError("none is up"), 3, "list"), (UserError("no such robot"), 3, "UserError")],
)
def test_who_would_wait_long_is_answered_elsewhere_or_else_here(error: Exception | None, calls: int, kind: str) -> None:
    overflow = SlowCompute(0.0, error)
    answers = asyncio.run(four_after_one(BatchConfig(max_batch=1, wait_ms=0, overflow_ms=20), overflow))
    assert [type(answer).__name__ for answer in answers] == ["list", kind, kind, kind]
    assert overflow.calls == calls
    if error is None:
        assert all(np.array_equal(answers[n][0].chunk.actions, chunk_of(observation(), n)) for n in range(4))
        assert answers[3][0].timing.denoise_ms == 3.0


def test_others_that_could_not_answer_are_let_alone_for_a_while() -> None:
    async def ask() -> None:
        overflow = SlowCompute(0.0, BusyError("none is up"))
        config = BatchConfig(max_batch=1, wait_ms=0, overflow_ms=20)
        service = BatchingService(SlowCompute(0.05), description_of_random(), config, overflow=overflow)
        await service.infer([observation()], [0])
        running = [asyncio.create_task(service.infer([observation()], [seed])) for seed in range(2)]
        await asyncio.sleep(0.01)  # the second has asked in vain by now
        await asyncio.gather(*running, service.infer([observation()], [2]))
        assert overflow.calls == 1

    asyncio.run(ask())


# -------------------------------------------------------------------------------------------------------- the server


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_and_configuration_are_as_the_peers_ask() -> None:
    with serving(RandomPolicy()) as port:
        assert get(port, "/healthz") == (200, "OK\n")
        assert json.loads(get(port, "/health")[1]) == {"status": "ok"}
        status, text = get(port, "/config?max_batch_size=4&max_wait_time=0.02&colour=red")
        answer = json.loads(text)
        assert (status, answer["config"]) == (200, {"max_batch_size": 4, "max_wait_time": 0.02})
        assert answer["errors"] == ["unknown key: colour"]
        for query in ("max_batch_size=0", "max_batch_size=x", "max_wait_time=nan", "colour=red"):
            assert get(port, f"/config?{query}")[0] == 422
        assert json.loads(get(port, "/config")[1])["config"]["max_batch_size"] == 4
        assert get(port, "/elsewhere")[0] == 404


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["/nowhere"], "does not exist"),
        (["random", "--execute-steps", "17"], "execute_steps is 17"),
        (["random", "--robot", "spot"], "not trained for 'spot'"),
        (["random", "--camera", "agentview"], "theirs=ours"),
        (["random", "--camera", "agentview=front"], "no camera 'front'"),
        (["random", "--wait-ms", "-1"], "wait_ms"),
        (["random", "--port", "70000"], "--port is 70000"),
        (["random", "--host", "0.0.0.0"], "has no keys"),
        (["random", "--key-file", "/nowhere"], "cannot be read"),
    ],
)
def test_what_cannot_be_served_is_one_line(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["policy-server", *(["--port", "0"] if "--port" not in words else []), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert says in error
    assert error.count("\n") == 1
