"""Robots of `blm bench serve`: clients that send what they see and wait for a chunk of actions."""

import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, Protocol

import numpy as np

from blm.model.description import PolicyDescription
from blm.model.types import Observation
from blm.pipelines.benchmarks.serve_http import KEY, TIMEOUT_S, connect, headers, read
from blm.serve.client import PolicyClient
from blm.serve.web.codec import encode_picture

WARM = 3
"""Requests of each robot before the clock starts."""
VIEWS = 8
"""Different observations a robot sends, over and over."""
INSTRUCTIONS = ("push the cube to the target", "pick up the red cube", "pull the cube")


class Robot(Protocol):
    """One client that wants actions."""

    def ask(self, number: int) -> dict[str, float]:
        """Send the observation of that number and wait for the chunk. Returns the server's account of the time."""

    def close(self) -> None:
        """Hang up."""


class SocketRobot:
    """Speaks our WebSocket protocol through the client that we publish."""

    def __init__(self, url: str, place: int) -> None:
        self._client = PolicyClient(url, key=os.environ.get(KEY, ""), deadline_s=TIMEOUT_S)
        self._views = observations(self._client.description, place)

    def ask(self, number: int) -> dict[str, float]:
        """As `Robot`."""
        ((_, timing),) = self._client.infer_timed([self._views[number % VIEWS]], [number])
        return timing

    def close(self) -> None:
        """As `Robot`."""
        self._client.close()


class JsonRobot:
    """Posts JSON with PNG pictures, over a connection that it keeps."""

    def __init__(self, url: str, place: int) -> None:
        with closing(PolicyClient(url, key=os.environ.get(KEY, ""), deadline_s=TIMEOUT_S)) as client:
            views = observations(client.description, place)
        self._bodies = [_posted(view) for view in views]
        self._connection = connect(url)

    def ask(self, number: int) -> dict[str, float]:
        """As `Robot`."""
        body = json.dumps({**self._bodies[number % VIEWS], "seed": number})
        self._connection.request("POST", "/v1/actions", body, headers())
        reply = read(self._connection.getresponse())
        return dict(json.loads(reply)["timing"])

    def close(self) -> None:
        """As `Robot`."""
        self._connection.close()


ROBOTS: dict[str, Callable[[str, int], Robot]] = {"blm": SocketRobot, "json": JsonRobot}
"""By protocol."""


def observations(description: PolicyDescription, place: int) -> list[Observation]:
    """What the robot at a place sees: noise, as large as the policy wants it. Neighbours are of different kinds."""
    rng = np.random.default_rng(place)
    layout = description.layouts[place % len(description.layouts)]
    shape = (description.image_px, description.image_px, 3)
    return [
        Observation(
            images={camera: rng.integers(0, 256, shape, dtype=np.uint8) for camera in description.cameras},
            state=rng.uniform(0, 1, layout.state_dim).astype(np.float32),
            instruction=INSTRUCTIONS[place % len(INSTRUCTIONS)],
            embodiment=layout.name,
        )
        for _ in range(VIEWS)
    ]


def _posted(view: Observation) -> dict[str, Any]:
    return {
        "embodiment": view.embodiment,
        "instruction": view.instruction,
        "state": [float(value) for value in view.state],
        "images": {camera: encode_picture(picture) for camera, picture in view.images.items()},
    }


def act(request: dict[str, Any]) -> dict[str, Any]:
    """Robots side by side for so many seconds: `wall_ms` and the server's `timing` of every answer."""
    count, seconds = request["clients"], request["seconds"]
    together = threading.Barrier(count)

    def run(place: int) -> list[tuple[float, dict[str, float]]]:
        answers: list[tuple[float, dict[str, float]]] = []
        try:
            with closing(ROBOTS[request["protocol"]](request["url"], place)) as robot:
                for number in range(WARM):
                    robot.ask(number)
                together.wait(TIMEOUT_S)
                end_s = time.perf_counter() + seconds
                while (began_s := time.perf_counter()) < end_s:
                    timing = robot.ask(len(answers))
                    answers.append((1e3 * (time.perf_counter() - began_s), timing))
        except BaseException:
            together.abort()  # the others must not wait for it
            raise
        return answers

    with ThreadPoolExecutor(count) as threads:
        found = [threads.submit(run, place) for place in range(count)]
    _first_cause([one.exception() for one in found])
    answers = [answer for one in found for answer in one.result()]
    return {"wall_ms": [wall for wall, _ in answers], "timing": [timing for _, timing in answers], "seconds": seconds}


def _first_cause(errors: list[BaseException | None]) -> None:
    """Raise what made the others stop, if anything did."""
    causes = [error for error in errors if error is not None]
    for error in sorted(causes, key=lambda one: isinstance(one, threading.BrokenBarrierError)):
        raise error


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """The policy's name, robots, cameras and picture size."""
    with closing(PolicyClient(request["url"], key=os.environ.get(KEY, ""), deadline_s=TIMEOUT_S)) as client:
        found = client.description
    return {
        "policy": found.name,
        "robots": list(found.robots),
        "cameras": list(found.cameras),
        "image_px": found.image_px,
        "chunk": found.chunk,
    }
