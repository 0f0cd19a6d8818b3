"""What clients of policy servers share: a `Policy` whose answers come over the network.

Connections are opened when something is asked, and stay behind when a client is sent to another process. A server that
says what it serves must go on serving that: two models in one evaluation would be counted as one.
"""

import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from blm.actors.remote.mapping import RemoteMapping
from blm.actors.sim.policies import PolicyError, PolicyTimeoutError
from blm.model.description import PolicyDescription, description_from_wire
from blm.model.embodiments import get_embodiment
from blm.model.errors import UserError
from blm.model.types import ActionChunk, Observation, Prefixes, refuse_prefixes
from blm.model.wire import unpack_map
from blm.serve.client_lines import Deadline, Line, Lines, ServerError, ServerTimeoutError

DEADLINE_S = 30.0
KEY_VARIABLE = "BLM_API_KEY"
"""Environment variable with the key that is shown to servers which want one."""
SIDE_BY_SIDE = 8
"""Observations of a batch that a server which takes one at a time is asked at once, over as many connections."""


class RemoteClient:
    """A policy on a server. Thread-safe; can be pickled. Subclasses speak a protocol: `_greet` and `_ask`."""

    def __init__(
        self, url: str, *, name: str, mapping: RemoteMapping | None = None, deadline_s: float = DEADLINE_S
    ) -> None:
        """url: ws://... deadline_s: for the answer to a batch, connecting included, and for the server to say what it
        is; one whose replicas sleep wakes within half a minute. Nothing is opened yet."""
        self.name = name
        self.url = url
        self.deadline_s = deadline_s
        self.mapping = mapping
        self.description: PolicyDescription | None = None
        """What the server says of its policy, once it was asked; None if it says nothing that is known here."""
        key = os.environ.get(KEY_VARIABLE, "")
        self._lines = Lines(url, self._greeted, {"Authorization": f"Api-Key {key}"} if key else None)
        self._lock = threading.Lock()
        self._asking: ThreadPoolExecutor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        make = functools.partial(type(self), name=self.name, mapping=self.mapping, deadline_s=self.deadline_s)
        return make, (self.url,), {"description": self.description}

    @property
    def sees(self) -> bool:
        """Whether observations must hold pictures."""
        if self.mapping is not None:
            return bool(self.mapping.pictures)
        return self.description is None or bool(self.description.cameras)

    def connect(self) -> None:
        """Ask the server what it is. UserError if nobody answers, or if it needs a mapping and there is none."""
        try:
            with policy_errors():
                self._lines.ask(lambda line, deadline: None, Deadline(self.deadline_s))
        except PolicyError as error:
            raise UserError(f"{error}; start the server, or correct the address") from error
        if self.mapping is None and self.description is None:
            raise UserError(
                f"{self.url} does not say what it needs; describe its cameras, state and actions in a mapping file"
                " (docs/remote.md)"
            )

    def check_world(self, *, cameras: Sequence[str], image_px: int, robots: Iterable[str], execute_steps: int) -> None:
        """UserError unless the policy can act on such robots, pictures and steps between looks."""
        if self.mapping is not None:
            self._check_mapping(self.mapping, cameras, robots)
        elif self.description is not None:
            self._check_description(self.description, cameras, image_px, robots)
        rows = self._rows()
        if rows is not None and execute_steps > rows:
            raise UserError(f"execute_steps is {execute_steps}; {self.url} gives {rows} actions a look")

    def infer_batch(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> list[ActionChunk]:
        """A chunk for each observation, in order. PolicyTimeoutError after the deadline, PolicyError for anything else
        that the server does wrong."""
        refuse_prefixes(self.name, prefixes)
        deadline = Deadline(self.deadline_s)
        pairs = list(zip(observations, seeds, strict=True))

        def ask(pair: tuple[Observation, int]) -> ActionChunk:
            with policy_errors():
                return self._lines.ask(lambda line, until: self._ask(line, until, *pair), deadline)

        if len(pairs) < 2:
            return [ask(pair) for pair in pairs]
        return list(self._threads().map(ask, pairs))

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        with self._lock:
            threads, self._asking = self._asking, None
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------------------------------------------- what differs

    def _greet(self, line: Line, deadline: Deadline) -> Any:
        """Shake hands on a new connection; what the server says of itself, plain data or None."""
        raise NotImplementedError

    def _ask(self, line: Line, deadline: Deadline, observation: Observation, seed: int) -> ActionChunk:
        """One observation's chunk."""
        raise NotImplementedError

    def _rows(self) -> int | None:
        """Actions in an answer, if that is known beforehand."""
        return self.description.chunk if self.description is not None and self.mapping is None else None

    # ------------------------------------------------------------------------------------------------------ helpers

    def _greeted(self, line: Line, deadline: Deadline) -> Any:
        said = self._greet(line, deadline)
        if said is not None:
            found = _or_policy_error(functools.partial(description_from_wire, said))
            with self._lock:
                if self.description is not None and found != self.description:
                    raise PolicyError(f"{self.url} serves another model now ({found.name} {found.identity})")
                self.description = found
        return said

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._asking is None:
                self._asking = ThreadPoolExecutor(max_workers=SIDE_BY_SIDE, thread_name_prefix="remote-policy")
            return self._asking

    def _check_mapping(self, mapping: RemoteMapping, cameras: Sequence[str], robots: Iterable[str]) -> None:
        for robot in robots:
            if robot not in mapping.robots:
                raise UserError(f"the mapping of {self.url} is for {', '.join(mapping.robots)}, not for {robot}")
            mapping.check_robot(get_embodiment(robot))
        if missing := [camera for camera in mapping.pictures.values() if camera not in cameras]:
            raise UserError(f"{self.url} looks through {missing[0]!r}; set world.cameras={[*cameras, *missing]}")

    def _check_description(
        self, description: PolicyDescription, cameras: Sequence[str], image_px: int, robots: Iterable[str]
    ) -> None:
        for robot in robots:
            description.layout(robot)
        if missing := [camera for camera in description.cameras if camera not in cameras]:
            raise UserError(f"{self.url} needs camera {missing[0]!r}; set world.cameras={list(description.cameras)}")
        if description.cameras and description.image_px != image_px:
            raise UserError(
                f"{self.url} needs pictures of {description.image_px} px; set world.image_px={description.image_px}"
            )


@contextmanager
def policy_errors() -> Iterator[None]:
    """What goes wrong with connections, as failures of the policy."""
    try:
        yield
    except ServerTimeoutError as error:
        raise PolicyTimeoutError(str(error)) from error
    except ServerError as error:
        raise PolicyError(str(error)) from error


def _or_policy_error(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except UserError as error:
        raise PolicyError(str(error)) from error


def read_reply(frame: bytes | str) -> dict[Any, Any]:
    """A server's message as a map. PolicyError for what is none; a text frame is taken for its complaint."""
    if isinstance(frame, str):
        lines = [line for line in frame.strip().splitlines() if line.strip()]
        raise PolicyError(f"the server says: {lines[-1].strip()[:300] if lines else 'nothing'}")
    reply: dict[Any, Any] = _or_policy_error(functools.partial(unpack_map, frame))
    return reply
