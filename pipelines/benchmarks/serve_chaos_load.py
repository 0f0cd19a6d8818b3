"""The clients of `blm bench serve-chaos`: they never stop asking, and write down how every single request ended."""

import contextlib
import functools
import itertools
import json
import os
import re
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from blm.pipelines.benchmarks.serve_http import KEY, connect, headers, read
from blm.pipelines.benchmarks.serve_robots import ROBOTS, Robot, observations
from blm.serve.client import PolicyClient
from blm.serve.web.codec import encode_picture

OK = "ok"
FULL = ("429", "503")
"""Refusals that a server which is full gives."""
_STATUS = re.compile(r"status (\d{3})")
PAUSE_S = 0.05
"""After a failure: a robot does not hammer a door that is shut."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a request ended."""

    at_s: float
    """When (`time.perf_counter`)."""
    ms: float
    how: str
    """`ok`, an HTTP status, or the exception."""


@dataclass(kw_only=True, slots=True)
class Load:
    """Requests so far; grows while the robots are at work."""

    ended: list[Ended] = field(default_factory=list)
    alive: bool = True

    def since(self, began_s: float = 0.0) -> dict[str, Any]:
        """Counts and latencies of what ended after a moment."""
        found = [one for one in self.ended if one.at_s >= began_s]
        times = sorted(one.ms for one in found if one.how == OK)
        full = sorted(one.ms for one in found if one.how in FULL)
        failed = Counter(one.how for one in found if one.how != OK and one.how not in FULL)
        return {
            "answered": len(times),
            "refused": len(full),
            "failed": sum(failed.values()),
            "failures": dict(failed.most_common(5)),
            "p50_ms": _at(times, 0.5),
            "p95_ms": _at(times, 0.95),
            "refused_p95_ms": _at(full, 0.95),
        }


def _at(ordered: Sequence[float], share: float) -> float | None:
    return round(ordered[min(int(share * len(ordered)), len(ordered) - 1)], 1) if ordered else None


def gap_s(load: Load, began_s: float) -> float:
    """Longest time without a good answer after a moment: how long the server was gone, for its clients."""
    moments = [began_s, *sorted(one.at_s for one in load.ended if one.how == OK and one.at_s >= began_s)]
    return round(max((later - earlier for earlier, later in itertools.pairwise(moments)), default=0.0), 2)


def rate_per_s(load: Load, began_s: float) -> float:
    """Good answers a second from a moment until now."""
    good = sum(one.how == OK and one.at_s >= began_s for one in load.ended)
    return good / max(time.perf_counter() - began_s, 1e-9)


class Poster:
    """A robot that posts JSON, prepared beforehand: what is measured is the server and not its clients."""

    def __init__(self, url: str, bodies: Sequence[bytes]) -> None:
        self._connection, self._bodies = connect(url), bodies

    def ask(self, number: int) -> dict[str, float]:
        """As `Robot`; the answer is not looked into."""
        self._connection.request("POST", "/v1/actions", self._bodies[number % len(self._bodies)], headers())
        read(self._connection.getresponse())
        return {}

    def close(self) -> None:
        """As `Robot`."""
        self._connection.close()


def bodies_for(url: str) -> list[bytes]:
    """Good requests of different robots for a server's policy."""
    with closing(PolicyClient(url, key=os.environ.get(KEY, ""))) as client:
        views = [view for place in range(3) for view in observations(client.description, place)[:2]]
    return [
        json.dumps(
            {
                "embodiment": view.embodiment,
                "instruction": view.instruction,
                "state": [float(value) for value in view.state],
                "images": {camera: encode_picture(picture) for camera, picture in view.images.items()},
            }
        ).encode()
        for view in views
    ]


@contextmanager
def robots_at_work(url: str, *, http: int = 0, blm: int = 0, bodies: Sequence[bytes] = ()) -> Iterator[Load]:
    """So many robots of each protocol, each asking again as soon as it is answered, until the block ends.

    bodies: what those of HTTP ask; by default what suits the server's policy, for which it is asked first.
    """
    load = Load()
    bodies = bodies or (bodies_for(url) if http else [])
    ways: list[Callable[[], Robot]] = [functools.partial(Poster, url, bodies)] * http
    ways += [functools.partial(ROBOTS["blm"], url, place) for place in range(blm)]
    threads = [threading.Thread(target=_ask_all, args=(way, load, lambda: None), daemon=True) for way in ways]
    with _running(threads, load):
        yield load


@contextmanager
def requests_at_rate(url: str, per_s: float, *, threads: int) -> Iterator[Load]:
    """Requests at a steady rate, whether or not the ones before were answered, until the block ends.

    threads: most that may be under way; a rate that needs more is not reached, and the counts say so.
    """
    load, bodies, clock = Load(), bodies_for(url), _Clock(per_s)
    way = functools.partial(Poster, url, bodies)
    crowd = [threading.Thread(target=_ask_all, args=(way, load, clock.wait), daemon=True) for _ in range(threads)]
    with _running(crowd, load):
        yield load


class _Clock:
    """Hands out the moments at which requests are due."""

    def __init__(self, per_s: float) -> None:
        self._step_s, self._lock = 1 / per_s, threading.Lock()
        self._next_s = time.perf_counter()

    def wait(self) -> None:
        """Until the next moment that nobody has taken. Moments that all threads missed are lost, not made up for."""
        with self._lock:
            self._next_s = max(self._next_s + self._step_s, time.perf_counter())
            due_s = self._next_s
        time.sleep(max(due_s - time.perf_counter(), 0.0))


@contextmanager
def _running(threads: Sequence[threading.Thread], load: Load) -> Iterator[None]:
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        load.alive = False
        for thread in threads:
            thread.join(60)


def _ask_all(connect_robot: Callable[[], Robot], load: Load, wait: Callable[[], None]) -> None:
    robot: Robot | None = None
    number = 0
    while load.alive:
        wait()
        began_s = time.perf_counter()
        how = OK
        try:
            robot = robot or connect_robot()
            robot.ask(number)
        except Exception as error:  # every way in which a request ends is a result here
            status = _STATUS.search(str(error))
            how = status[1] if status else f"{type(error).__name__}: {str(error)[:80]}"
            if how not in FULL:
                _hang_up(robot)
                robot = None
                time.sleep(PAUSE_S)
        number += 1
        now_s = time.perf_counter()
        load.ended.append(Ended(at_s=now_s, ms=1e3 * (now_s - began_s), how=how))
    _hang_up(robot)  # an open WebSocket counts as something to do


def _hang_up(robot: Robot | None) -> None:
    if robot is not None:
        with contextlib.suppress(Exception):
            robot.close()


def steadiness(values: Sequence[float]) -> float:
    """How much the second half of a series lies above the first, as a factor: 1 is flat."""
    half = len(values) // 2
    return round(statistics.mean(values[half:]) / statistics.mean(values[:half]), 3) if half else 1.0
