"""The policy server: what it makes of observations, what it computes together, and its doors."""

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any

import numpy as np
import pytest
from small_policy import SpoiltPolicy
from small_policy_server import description_of_random, observation, serving

from blm.actors.sim.policies import RandomPolicy
from blm.model.errors import UserError
from blm.model.types import Observation
from blm.pipelines import cli
from blm.serve.policy_batches import BatchConfig, BatchingService
from blm.serve.policy_protocols import BusyError, SessionConfig, read_observation

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
        return read_observation(**given, description=description, config=config)

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
        ({"images": {"front": "path"}}, "is str"),
    ):
        with pytest.raises(UserError, match=says):
            read(**changes)


# ------------------------------------------------------------------------------------------------------------ batches


def test_what_comes_together_is_computed_together_and_one_bad_request_spoils_nothing() -> None:
    async def ask() -> None:
        policy = SpoiltPolicy("error", "spoil this")
        service = BatchingService(policy, description_of_random(), BatchConfig(wait_ms=50))
        good = [observation(number) for number in range(3)]
        with service.client(), service.client(), service.client():
            answers = await asyncio.gather(*(service.infer([one], [number]) for number, one in enumerate(good)))
        assert service.passes == 1
        assert all(np.array_equal(answers[n][0].actions, chunk_of(good[n], n)) for n in range(3))
        bad = Observation(images={}, state=good[0].state, instruction="spoil this", embodiment="panda")
        with service.client(), service.client():
            mixed = await asyncio.gather(
                service.infer(good[:2], [0, 1]), service.infer([bad], [0]), return_exceptions=True
            )
        assert [len(mixed[0]), type(mixed[1]).__name__] == [2, "PolicyError"]

    asyncio.run(ask())


def test_more_than_may_wait_is_refused_at_once() -> None:
    async def ask() -> None:
        service = BatchingService(RandomPolicy(), description_of_random(), BatchConfig(max_waiting=2))
        first = asyncio.create_task(service.infer([observation()] * 2, [0, 1]))
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await service.infer([observation()], [2])
        assert len(await first) == 2

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
        (["random", "--host", "no.such.host.invalid"], "cannot listen"),
    ],
)
def test_what_cannot_be_served_is_one_line(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["policy-server", *(["--port", "0"] if "--port" not in words else []), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert says in error
    assert error.count("\n") == 1
