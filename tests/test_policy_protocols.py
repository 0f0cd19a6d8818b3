"""The policy server's sessions, over a tape of frames."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from small_policy_server import NotedPolicy, description_of_random, observation

from blm.actors.sim.policies import RandomPolicy
from blm.model.description import PolicyDescription, description_from_wire
from blm.model.types import ActionChunk, Observation, Prefixes
from blm.model.wire import pack, unpack
from blm.serve.batches.answers import Answer, InThread, Timing
from blm.serve.batches.service import BatchingService
from blm.serve.observability.metrics import Metrics
from blm.serve.sessions.session import HungUpError, PolicyService, SessionConfig
from blm.serve.sessions.sessions import Sessions
from blm.serve.sessions.vla_eval import envelope

QUICK = SessionConfig(grace_s=0.05)
CAMERAS = ("front", "wrist")


class Tape:
    """A connection whose client is the test."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[bytes | str | None] = asyncio.Queue()
        self.outgoing: asyncio.Queue[bytes | str] = asyncio.Queue()
        self.closed: tuple[int, str] | None = None

    async def receive(self) -> bytes | str:
        frame = await self.incoming.get()
        if frame is None:
            raise HungUpError
        return frame

    async def send(self, frame: bytes | str) -> None:
        await self.outgoing.put(frame)

    async def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    async def tell(self, frame: bytes | str) -> Any:
        """Send a frame and return what is answered; text as it is."""
        await self.incoming.put(frame)
        return await self.hear()

    async def hear(self) -> Any:
        answer = await asyncio.wait_for(self.outgoing.get(), 5)
        return answer if isinstance(answer, str) else unpack(answer)


def talk(
    body: Callable[[Tape], Awaitable[None]],
    service: PolicyService | None = None,
    *,
    dialect: Any = "auto",
    config: SessionConfig = QUICK,
) -> Tape:
    """Let the test's side of a conversation run against a session's; then hang up."""

    async def both() -> Tape:
        tape = Tape()
        theirs = service or BatchingService(InThread(RandomPolicy()), description_of_random())
        session = asyncio.create_task(Sessions().converse(tape, theirs, config, dialect))
        await body(tape)
        await tape.incoming.put(None)
        await asyncio.wait_for(session, 5)
        return tape

    return asyncio.run(both())


def seen(one: Observation, **more: Any) -> dict[str, Any]:
    """vla-eval's payload of an observation."""
    return {
        "images": one.images,
        "states": one.state,
        "task_description": one.instruction,
        "embodiment": one.embodiment,
        **more,
    }


def chunk_of(one: Observation, seed: int) -> np.ndarray:
    return RandomPolicy().infer_batch([one], [seed])[0].actions


# ----------------------------------------------------------------------------------------------------------- dialects


def test_silence_is_answered_with_openpis_metadata_and_a_hello_with_a_hello() -> None:
    async def silent(tape: Tape) -> None:
        assert (await tape.hear())["blm"]["name"] == "random"

    async def harness(tape: Tape) -> None:
        reply = await tape.tell(envelope("hello", {"harness_version": "0.8.0", "protocol_version": 1}, 7))
        assert (reply["type"], reply["seq"], reply["payload"]["protocol_version"]) == ("hello", 7, 1)
        assert reply["payload"]["observation_params"]["execute_steps"] == 8

    async def ours(tape: Tape) -> None:
        reply = await tape.tell(pack({"protocol": "blm", "version": 1}))
        assert description_from_wire(reply["description"]) == description_of_random()

    for client in (silent, harness, ours):
        assert talk(client).closed is None


@pytest.mark.parametrize("frame", [b"\x93", pack({"what": 1}), "text", pack([1])])
def test_an_unknown_language_is_told_so(frame: bytes | str) -> None:
    async def stranger(tape: Tape) -> None:
        await tape.incoming.put(frame)

    closed = talk(stranger).closed
    assert closed is not None
    assert closed[0] == 1007


def test_openpi_is_answered_and_survives_a_bad_observation() -> None:
    one = observation(3)

    async def client(tape: Tape) -> None:
        await tape.hear()
        good = {"observation/state": one.state, "prompt": one.instruction, "embodiment": "panda"}
        first = await tape.tell(pack(good))
        assert np.array_equal(first["actions"], chunk_of(one, 0))
        assert [name for name, value in first.items() if isinstance(value, np.ndarray)] == ["actions"]
        assert "prev_total_ms" not in first["server_timing"]
        assert "which robot" in await tape.tell(pack({**good, "embodiment": None}))
        assert "'seed'" in await tape.tell(pack({**good, "seed": -1}))
        second = await tape.tell(pack({**good, "seed": 9}))
        assert np.array_equal(second["actions"], chunk_of(one, 9))
        assert second["server_timing"]["prev_total_ms"] >= first["server_timing"]["infer_ms"]

    talk(client, dialect="openpi")


def test_openpi_names_of_cameras_are_understood() -> None:
    policy = NotedPolicy()
    service = BatchingService(InThread(policy), description_of_random(cameras=CAMERAS, image_px=16))
    one = observation(0, cameras=CAMERAS, px=16)
    front, wrist = one.images["front"], one.images["wrist"]
    plain = {"observation/state": one.state, "prompt": "go", "embodiment": "panda"}

    async def client(tape: Tape) -> None:
        await tape.hear()
        for pictures in (
            {"observation/image": front, "observation/wrist_image": wrist},
            {"observation/images/front": front, "observation/images/wrist": wrist},
            {"images": {"front": front, "wrist": wrist}},
            {"observation/base_image": front, "images": {"wrist": wrist}},
        ):
            assert "actions" in await tape.tell(pack({**plain, **pictures}))
        assert "no picture of camera 'wrist'" in await tape.tell(pack({**plain, "observation/image": front}))

    talk(client, service, dialect="openpi", config=SessionConfig(cameras={"base_image": "front"}))
    for (asked,), _, _ in policy.asked:
        assert {name: picture.tolist() for name, picture in asked.images.items()} == {
            "front": front.tolist(),
            "wrist": wrist.tolist(),
        }


def test_vla_eval_is_handed_a_chunk_action_by_action_and_forgets_it_with_the_episode() -> None:
    one = observation(1)
    answers: list[Any] = []

    async def client(tape: Tape) -> None:
        await tape.tell(envelope("hello", {}, 1))
        await tape.incoming.put(envelope("episode_start", {"task": {"name": "x"}}, 2))
        for number in range(3, 12):
            payload = seen(one, seed=5) if number in (3, 11) else {}  # in between nobody looks
            answers.append(await tape.tell(envelope("observation", payload, number)))
        await tape.incoming.put(envelope("episode_end", {}, 12))
        await tape.incoming.put(envelope("episode_start", {"task": {"embodiment": "panda"}}, 13))
        answers.append(await tape.tell(envelope("observation", seen(one, embodiment=None, seed=6), 14)))

    talk(client)
    assert [answer["seq"] for answer in answers] == [*range(3, 12), 14]
    assert ["timing" in answer["payload"] for answer in answers] == [True, *[False] * 7, True, True]  # of each look
    rows = [answer["payload"]["actions"] for answer in answers]
    assert np.array_equal(rows[:8], chunk_of(one, 5)[:8])
    assert np.array_equal(rows[8], chunk_of(one, 5)[0])
    assert np.array_equal(rows[9], chunk_of(one, 6)[0])


def test_vla_eval_is_told_of_a_bad_observation_and_goes_on() -> None:
    async def client(tape: Tape) -> None:
        await tape.tell(envelope("hello", {}, 1))
        bad = await tape.tell(envelope("observation", seen(observation(), states=np.full(8, np.nan)), 2))
        assert (bad["type"], bad["seq"]) == ("error", 2)
        assert bad["payload"]["error"].startswith("observation_failed: state holds NaN")
        assert (await tape.tell(envelope("observation", seen(observation()), 3)))["type"] == "action"

    talk(client)


class GatedService:
    """Answers when it is let; chunks count up from what was seen."""

    description: PolicyDescription = description_of_random(chunk=6, execute_steps=4)

    def __init__(self) -> None:
        self.gate = asyncio.Semaphore(0)
        self.metrics = Metrics()
        self.states: list[float] = []

    async def infer(
        self,
        observations: Sequence[Observation],
        seeds: Sequence[int],
        prefixes: Prefixes | None = None,
        *,
        protocol: str = "",
        began_s: float | None = None,
    ) -> list[Answer]:
        await self.gate.acquire()
        self.states += [float(one.state[0]) for one in observations]
        timing = Timing(queue_ms=0, preprocess_ms=0, mllm_ms=0, denoise_ms=0, total_ms=0, batch=len(seeds))
        rows = np.arange(6, dtype=np.float32)[:, None]
        chunks = [ActionChunk(actions=one.state + rows, control_hz=20) for one in observations]
        return [Answer(chunk=chunk, timing=timing) for chunk in chunks]

    def client(self, protocol: str) -> nullcontext[None]:
        return nullcontext()


def test_in_live_mode_the_newest_observation_counts_and_rows_that_have_gone_by_are_skipped() -> None:
    service = GatedService()
    heard: list[tuple[int, float]] = []

    def moment(number: int) -> bytes:
        state = np.full(8, 100.0 * number, np.float32)
        return envelope("observation", seen(observation(), states=state), number)

    async def client(tape: Tape) -> None:
        await tape.tell(envelope("hello", {}, 1))
        await tape.incoming.put(envelope("episode_start", {"task": {}, "mode": "live"}, 2))
        for number in (3, 4, 5):  # the first is looked at, two more come meanwhile
            await tape.incoming.put(moment(number))
            await asyncio.sleep(0.01)
        service.gate.release()
        for number in (6, 7, 8):
            heard.append(await action(tape))
            await tape.incoming.put(moment(number))
        heard.append(await action(tape))
        service.gate.release()  # the second look, at 6, since four rows had been used up by then
        await asyncio.sleep(0.05)
        await tape.incoming.put(moment(9))
        heard.append(await action(tape))

    async def action(tape: Tape) -> tuple[int, float]:
        message = await tape.hear()
        return message["seq"], float(message["payload"]["actions"][0])

    talk(client, service)
    assert heard == [(5, 302.0), (6, 303.0), (7, 304.0), (8, 305.0), (9, 603.0)]
    assert service.states == [300.0, 600.0]
