"""A policy server in a thread of the test's process, on a free port, and observations to send to it."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from blm.actors.sim.policies import CHUNK, RandomPolicy
from blm.model.description import PolicyDescription
from blm.model.layout import layout_of
from blm.model.types import ActionChunk, Observation, Prefixes
from blm.serve.batches.answers import InThread
from blm.serve.batches.service import BatchConfig, BatchingService
from blm.serve.policy_server import make_server, open_socket
from blm.serve.sessions.session import SessionConfig


def description_of_random(**changes: Any) -> PolicyDescription:
    """Of random actions for two robots, without cameras."""
    plain: dict[str, Any] = {"name": "random", "cameras": (), "image_px": 0, "chunk": CHUNK, "execute_steps": 8}
    layouts = (layout_of("panda"), layout_of("xarm6"))
    return PolicyDescription(**{**plain, "layouts": layouts, **changes})


def observation(seed: int = 0, robot: str = "panda", cameras: Sequence[str] = (), px: int = 112) -> Observation:
    """An observation of noise."""
    rng = np.random.default_rng(seed)
    return Observation(
        images={camera: rng.integers(0, 256, (px, px, 3), dtype=np.uint8) for camera in cameras},
        state=rng.uniform(0, 1, layout_of(robot).state_dim).astype(np.float32),
        instruction="push the cube",
        embodiment=robot,
    )


class NotedPolicy(RandomPolicy):
    """Random actions that go on from a prefix by repeating it, and remember what they were asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[list[Observation], list[int], Prefixes | None]] = []

    def infer_batch(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> list[ActionChunk]:
        self.asked.append((list(observations), list(seeds), prefixes))
        chunks = super().infer_batch(observations, seeds)
        for row, prefix in enumerate(prefixes or []):
            if prefix is not None:
                actions = chunks[row].actions.copy()
                actions[: prefix.frozen] = prefix.actions[: prefix.frozen]
                chunks[row] = ActionChunk(actions=actions, control_hz=chunks[row].control_hz)
        return chunks


@contextmanager
def serving(
    policy: Any,
    description: PolicyDescription | None = None,
    *,
    session: SessionConfig | None = None,
    batches: BatchConfig | None = None,
    port: int = 0,
) -> Iterator[int]:
    """The port on which the policy is served until the block ends."""
    with open_socket("127.0.0.1", port) as listening:
        service = BatchingService(InThread(policy), description or description_of_random(), batches)
        server = make_server(service, session or SessionConfig())
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the server does not leave"
