"""The playground: what the page may load, what the doors let in, and episodes that are those of an evaluation."""

import asyncio
import base64
import hashlib
import io
import json
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from PIL import Image
from small_playground import Replayed, described
from small_rollouts import FIRST, WORLD, items
from starlette.applications import Starlette
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from blm.actors import playground
from blm.actors.playground import Playground, PlaygroundOptions
from blm.actors.playground_visit import MOST_WAITING, Visit
from blm.actors.sim.outcome import RolloutConfig
from blm.actors.sim.policies import PolicyError, RandomPolicy
from blm.actors.sim.runner import RolloutRunner
from blm.model.errors import UserError
from blm.model.types import ActionChunk, Observation
from blm.serve.playground.routes import SCRIPTS, STATIC, playground_routes

QUICK = PlaygroundOptions(speed=0, display_px=64, steps_a_frame=10, visitors=2, trained=("panda/PushCube",))


class Brain:
    """A policy in this process, as the served one's client shows it."""

    def __init__(self, policy: Any) -> None:
        self.policy, self.description, self.closed = policy, described(), False
        self.told: list[str] = []

    def infer_timed(
        self, observations: Sequence[Observation], seeds: Sequence[int]
    ) -> list[tuple[ActionChunk, dict[str, float]]]:
        self.told += [one.instruction for one in observations]
        return [(chunk, {"mllm_ms": 1.0}) for chunk in self.policy.infer_batch(observations, seeds)]

    def close(self) -> None:
        self.closed = True


class Stage:
    """A stage of a few prepared events."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.left = asyncio.Event()
        self._news = [[{"event": "frame", "step": 3, "pictures": [("front", b"abc"), ("side", b"de")]}], [], None]

    async def open(self, key: str = "") -> tuple[str, list[Any]]:
        if key == "nobody":
            return "", [{"event": "trouble", "message": "all places are taken"}]
        return "me", [{"event": "hello", "key_was": key}]

    async def tell(self, visitor: str, command: Any) -> None:
        self.told.append(command)

    async def poll(self, visitor: str, wait_s: float = 5.0) -> Any:
        await asyncio.sleep(0.05)
        return self._news.pop(0)

    async def leave(self, visitor: str) -> None:
        self.left.set()


def visiting(stage: Stage, *, chat: bool = True) -> TestClient:
    return TestClient(Starlette(routes=playground_routes(stage, chat=chat)), base_url="http://127.0.0.1")


# ---------------------------------------------------------------------------------------------------------------- doors


def test_the_page_is_one_document_that_may_load_nothing_from_elsewhere() -> None:
    reply = visiting(Stage()).get("/playground")
    assert reply.status_code == 200
    (script,) = re.findall(r"<script>(.*?)</script>", reply.text, re.DOTALL)
    assert all((STATIC / name).read_text() in script for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}';" in policy
    assert set(re.findall(r"https?://[^\s\"'`]+", reply.text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=(?!\"data:)", reply.text)


def test_the_door_passes_commands_in_and_pictures_out() -> None:
    stage = Stage()
    with visiting(stage).websocket_connect("/playground/live", subprotocols=["blm", "blm-key.x"]) as socket:
        socket.send_json({"do": "enter", "key": "k-1"})
        assert socket.receive_json() == {"event": "hello", "key_was": "k-1", "chat": True}
        socket.send_json({"do": "stop"})
        frame = socket.receive_bytes()
        length = int.from_bytes(frame[:4], "big")
        event = json.loads(frame[4 : 4 + length])
        assert event == {"event": "frame", "step": 3, "pictures": [["front", 3], ["side", 2]]}
        assert frame[4 + length :] == b"abcde"
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
        assert closed.value.code == 1011
    assert stage.told == [{"do": "stop"}]
    assert stage.left.is_set()


def test_a_simulator_that_dies_ends_the_visit_with_words() -> None:
    class Dying(Stage):
        async def poll(self, visitor: str, wait_s: float = 5.0) -> Any:
            raise ConnectionError("the actor died")

        async def leave(self, visitor: str) -> None:
            raise ConnectionError("the actor died")

    with visiting(Dying()).websocket_connect("/playground/live") as socket:
        socket.send_json({"do": "enter"})
        assert socket.receive_json()["event"] == "hello"
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert (closed.value.code, closed.value.reason) == (1011, "the simulator has been restarted")


@pytest.mark.parametrize("message", ["no json", "[1]", '"text"', '{"do": "' + "x" * 5000 + '"}', "[" * 3000])
def test_what_is_no_command_ends_the_visit(message: str) -> None:
    with visiting(Stage()).websocket_connect("/playground/live") as socket:
        socket.send_text(message)
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert closed.value.code == 1008


def test_a_page_of_another_site_and_a_visitor_without_a_place_are_turned_away() -> None:
    client = visiting(Stage())
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/playground/live", headers={"Origin": "http://evil.example"}),
    ):
        pass
    with client.websocket_connect("/playground/live", headers={"Origin": "http://testserver"}) as socket:
        socket.send_json({"do": "enter", "key": "nobody"})
        assert "taken" in socket.receive_json()["message"]
        with pytest.raises(WebSocketDisconnect):
            socket.receive_json()


def test_frames_nobody_fetched_make_way_and_news_are_bounded() -> None:
    async def look() -> list[Any]:
        visit = Visit(Brain(None), QUICK, lambda work: asyncio.sleep(0))
        visit.emit({"event": "begun"})
        for step in range(5):
            visit.emit({"event": "frame", "step": step})
        first = await visit.news(0.1)
        for number in range(3 * MOST_WAITING):
            visit.emit({"event": "look", "look": number})
        return [first, await visit.news(0.1), await visit.news(0.01)]

    first, many, nothing = asyncio.run(look())
    assert first == [{"event": "begun"}, {"event": "frame", "step": 4}]
    assert len(many) == MOST_WAITING
    assert many[-1]["look"] == 3 * MOST_WAITING - 1
    assert nothing == []


# ------------------------------------------------------------------------------------------------------------- episodes


def at_the_stage(brain: Any, story: Callable[[Playground, str], Awaitable[Any]]) -> Any:
    """What a story returns that is played by one visitor."""

    async def play() -> Any:
        stage = Playground(lambda key: brain, QUICK)
        visitor, (hello,) = await stage.open()
        assert hello["event"] == "hello"
        try:
            return await story(stage, visitor)
        finally:
            await stage.close()

    return asyncio.run(play())


async def until(stage: Playground, visitor: str, wanted: str) -> list[dict[str, Any]]:
    """All events up to one of that kind."""
    events: list[dict[str, Any]] = []
    ends_s = time.monotonic() + 60
    while not any(event["event"] == wanted for event in events):
        assert time.monotonic() < ends_s, events
        events += await stage.poll(visitor, 1.0) or []
    return events


START = {"do": "start", "robot": "panda", "task": "PushCube", "seed": FIRST}


@pytest.mark.sim
def test_an_episode_is_the_one_that_an_evaluation_counts() -> None:
    policy = Replayed([FIRST])
    (finished,) = RolloutRunner(WORLD, RolloutConfig(), policy, slots=1).run(items([FIRST]))

    async def story(stage: Playground, visitor: str) -> list[dict[str, Any]]:
        await stage.tell(visitor, START)
        events = await until(stage, visitor, "over")
        await stage.tell(visitor, {"do": "picture"})
        return events + await until(stage, visitor, "picture")

    events = at_the_stage(Brain(policy), story)
    over = next(event for event in events if event["event"] == "over")
    looks = [event for event in events if event["event"] == "look"]
    assert finished.result.success
    assert (over["outcome"], over["steps"]) == ("success", finished.result.steps)
    assert len(looks) == finished.result.chunks
    assert {look["instruction"] for look in looks} == {finished.result.instruction}
    frames = [event for event in events if event["event"] == "frame"]
    assert frames[-1]["step"] == over["steps"]
    assert [Image.open(io.BytesIO(file)).size for _, file in frames[-1]["pictures"]] == [(64, 64)] * 2
    assert [(name, Image.open(io.BytesIO(file)).format) for name, file in events[-1]["pictures"]] == [
        ("front", "PNG"),
        ("side", "PNG"),
    ]


@pytest.mark.sim
def test_a_visitor_can_say_something_else_pause_stop_and_start_again() -> None:
    brain = Brain(RandomPolicy())

    async def story(stage: Playground, visitor: str) -> None:
        await stage.tell(visitor, START | {"instruction": "first"})
        await until(stage, visitor, "look")
        await stage.tell(visitor, {"do": "pause"})
        await until(stage, visitor, "paused")
        await stage.tell(visitor, {"do": "instruct", "instruction": " second "})
        await asyncio.sleep(0.2)
        await stage.poll(visitor, 0)
        assert await stage.poll(visitor, 0.3) == [], "nothing moves while it is paused"
        await stage.tell(visitor, {"do": "resume"})
        await until(stage, visitor, "look")
        await stage.tell(visitor, {"do": "stop"})
        assert (await until(stage, visitor, "over"))[-1]["outcome"] == "stopped"
        await stage.tell(visitor, START | {"seed": FIRST + 1})
        last = (await until(stage, visitor, "over"))[-1]
        assert last["outcome"] in ("not_reached", "not_moved", "not_at_goal", "dropped", "success")

    at_the_stage(brain, story)
    assert brain.told[0] == "first"
    assert "second" in brain.told
    assert brain.closed


@pytest.mark.sim
def test_what_goes_wrong_is_told_and_the_visitor_may_start_again() -> None:
    class Failing(RandomPolicy):
        def infer_batch(self, *args: Any, **options: Any) -> Any:
            raise PolicyError("no answer within 20 s")

    async def story(stage: Playground, visitor: str) -> list[str]:
        for command in (START | {"task": "Fly"}, START | {"robot": "xarm7"}, START | {"seed": -1}, {"do": "dance"}):
            await stage.tell(visitor, command)
        said = [event["message"] for event in await until(stage, visitor, "trouble")]
        await stage.tell(visitor, START)
        return [*said, (await until(stage, visitor, "over"))[-1]["detail"]]

    *said, failed = at_the_stage(Brain(Failing()), story)
    for words, wanted in zip(
        said, ("unknown task 'Fly'", "not trained for 'xarm7'", "seed", "unknown command"), strict=True
    ):
        assert wanted in words
    assert failed == "no answer within 20 s"


def test_places_are_limited_and_those_who_went_without_a_word_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playground, "ABSENT_S", 0.4)
    brains: list[Brain] = []

    def connect(key: str) -> Brain:
        if key == "wrong":
            raise UserError("this server asks for an API key")
        brains.append(Brain(None))
        return brains[-1]

    async def story() -> None:
        stage = Playground(connect, QUICK)
        name, (trouble,) = await stage.open("wrong")
        assert (name, "API key" in trouble["message"]) == ("", True)
        names = [(await stage.open())[0] for _ in range(3)]
        assert [bool(name) for name in names] == [True, True, False]
        for _ in range(6):
            await stage.poll(names[0], 0.1)
        assert stage.visitors == 1
        assert await stage.poll(names[1], 0.1) is None
        assert (await stage.open())[0]
        await stage.close()

    asyncio.run(story())
    assert [brain.closed for brain in brains] == [True] * 3
