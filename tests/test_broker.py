"""The queue before a policy: what is merged, how long it waits, and what becomes of requests that go wrong."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest

from blm.actors.broker import Broker, EngineDied
from blm.actors.sim.policies import PolicyError, PolicyTimeoutError
from blm.model.errors import UserError
from blm.model.types import ActionChunk, ActionPrefix, Observation, Prefixes

LIMIT_S = 0.3


class SlowEngine:
    """Answers with chunks that hold the seeds, after a while. Some instructions make it misbehave."""

    def __init__(self) -> None:
        self.passes: list[list[int]] = []
        self.prefixes: list[Prefixes | None] = []
        self.renewals = 0
        self.cured = False

    async def infer(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None
    ) -> list[ActionChunk]:
        self.passes.append(list(seeds))
        self.prefixes.append(prefixes)
        await asyncio.sleep(0.02)
        words = {observation.instruction for observation in observations}
        if "refuse" in words:
            raise UserError("refused")
        if "hang" in words or ("hang once" in words and not self.renewals):
            await asyncio.sleep(60)
        if "die" in words or ("die once" in words and not self.renewals):
            raise EngineDied("gone")
        chunks = [ActionChunk(actions=np.full((1, 1), seed), control_hz=20) for seed in seeds]
        return chunks[1:] if "short" in words else chunks

    async def renew(self) -> None:
        self.renewals += 1
        if self.cured:
            raise UserError("the files are gone")


Request = tuple[str, Sequence[int]]


def observation(text: str) -> Observation:
    return Observation(images={}, state=np.array([0.0] * 7 + [1.0], np.float32), instruction=text, embodiment="panda")


async def ask(broker: Broker, requests: Sequence[Request]) -> list[Any]:
    """Answers to requests made at once, as their seeds; or what was raised."""

    async def one(text: str, seeds: Sequence[int]) -> list[int]:
        chunks = await broker.infer_batch([observation(text)] * len(seeds), seeds)
        return [int(chunk.actions[0, 0]) for chunk in chunks]

    return list(await asyncio.gather(*(one(*request) for request in requests), return_exceptions=True))


def run(body: Callable[[Broker, SlowEngine], Awaitable[Any]], **options: Any) -> tuple[Any, SlowEngine]:
    """What `body` makes of a broker before one engine."""

    async def within() -> tuple[Any, SlowEngine]:
        engine = SlowEngine()
        return await body(Broker([engine], **({"limit_s": LIMIT_S} | options)), engine), engine

    return asyncio.run(within())


def answers(requests: Sequence[Request], **options: Any) -> tuple[list[Any], SlowEngine]:
    return run(lambda broker, _: ask(broker, requests), **options)


def test_requests_are_answered_one_by_one_unless_they_may_be_merged() -> None:
    requests = [("go", [1, 2]), ("go", [3]), ("go", [4, 5, 6]), ("go", [7])]
    for merge, passes in ((0, [[1, 2], [3], [4, 5, 6], [7]]), (4, [[1, 2, 3], [4, 5, 6, 7]])):
        found, engine = answers(requests, merge=merge)
        assert found == [[1, 2], [3], [4, 5, 6], [7]]
        assert engine.passes == passes


def test_a_pass_with_room_left_waits_for_more_but_not_for_long() -> None:
    async def late(broker: Broker, engine: SlowEngine) -> float:
        first = asyncio.create_task(ask(broker, [("go", [1])]))
        await asyncio.sleep(0.03)
        assert await ask(broker, [("go", [2])]) == [[2]]
        await first
        began_s = time.monotonic()
        await ask(broker, [("go", [3])])
        return time.monotonic() - began_s

    took_s, engine = run(late, merge=8, wait_s=0.1)
    assert engine.passes == [[1, 2], [3]]
    assert 0.1 < took_s < 1.0
    assert run(late, merge=8)[1].passes == [[1], [2], [3]]


def test_two_engines_share_the_requests() -> None:
    async def both() -> list[SlowEngine]:
        engines = [SlowEngine(), SlowEngine()]
        broker = Broker(engines, limit_s=LIMIT_S)
        assert await ask(broker, [("go", [seed]) for seed in range(6)]) == [[seed] for seed in range(6)]
        assert (broker.load.answers, broker.load.passes) == (6, 6)
        return engines

    assert [len(engine.passes) for engine in asyncio.run(both())] == [3, 3]


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("refuse", UserError, "refused"),
        ("hang", PolicyTimeoutError, "no answer within 0.3 s"),
        ("die", PolicyError, "process died 4 times over this request"),
        ("short", PolicyError, "0 chunks for 1 observations"),
    ],
)
def test_a_request_that_goes_wrong_does_not_spoil_those_merged_with_it(
    text: str, kind: type[Exception], message: str
) -> None:
    found, engine = answers([("go", [1]), (text, [2]), ("go", [3, 4])], merge=100)
    assert (found[0], found[2]) == ([1], [3, 4])
    assert type(found[1]) is kind
    assert message in str(found[1])
    assert engine.passes[0] == [1, 2, 3, 4]
    assert engine.renewals == {"hang": 2, "die": 5}.get(text, 0)


def test_a_group_that_waited_in_vain_is_told_so_that_each_may_ask_for_itself() -> None:
    (found,), engine = answers([("hang", [1, 2])])
    assert type(found) is PolicyError
    assert engine.renewals == 1


@pytest.mark.parametrize("text", ["die once", "hang once"])
def test_what_went_wrong_once_is_asked_again_of_the_new_process(text: str) -> None:
    found, engine = answers([(text, [1]), ("go", [2])], merge=8)
    assert found == [[1], [2]]
    assert engine.renewals == 1


def test_a_policy_that_never_answers_ends_the_evaluation() -> None:
    found, _ = answers([("hang", [seed]) for seed in range(5)], silences=3)
    assert [type(one) for one in found] == [PolicyTimeoutError] * 2 + [UserError] * 3
    assert "3 times in a row" in str(found[-1])


def test_an_engine_that_cannot_be_made_again_ends_the_evaluation() -> None:
    async def spoilt(broker: Broker, engine: SlowEngine) -> list[Any]:
        engine.cured = True
        first = await ask(broker, [("die", [1]), ("go", [2])])
        return first + await ask(broker, [("go", [3])])

    found, _ = run(spoilt)
    assert [type(one) for one in found] == [UserError] * 3
    assert all("the files are gone" in str(one) for one in found)


def test_prefixes_of_merged_requests_stand_with_their_observations() -> None:
    prefix = ActionPrefix(actions=np.zeros((2, 8), np.float32), frozen=1)

    async def mixed(broker: Broker, engine: SlowEngine) -> None:
        await asyncio.gather(
            broker.infer_batch([observation("go")] * 2, [1, 2]),
            broker.infer_batch([observation("go")] * 2, [3, 4], [None, prefix]),
        )

    _, engine = run(mixed, merge=8)
    assert engine.prefixes == [[None, None, None, prefix]]
