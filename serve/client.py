"""A small client of a served policy: NumPy, msgpack and websockets, and nothing that is heavy.

    with PolicyClient("ws://robot-box:8000", key=os.environ["BLM_API_KEY"]) as policy:
        chunk = policy.infer(Observation(images={"front": picture}, state=state, instruction="push the cube",
                                         embodiment="panda"))

It speaks our own protocol (`/blm`): whole batches, seeds, chunks in execution. A lost connection is opened again and
the observation asked again; nobody is waited for beyond the deadline. `act` is one plain HTTP request instead.
"""

import itertools
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from blm.model.description import PolicyDescription
from blm.model.errors import UserError
from blm.model.types import ActionChunk, Observation, Prefixes
from blm.model.wire import pack, unpack_map
from blm.serve.client_lines import Deadline, Line, Lines, ServerError, ServerTimeoutError
from blm.serve.client_messages import (
    Timings,
    as_chunk,
    as_map,
    hello,
    plain,
    question,
    read_answer,
    read_description,
    read_hello,
)

CONNECT_S = 10.0
"""A server that does not answer after so long is taken not to have been started; a pool that sleeps at zero replicas
takes half a minute to wake, so whoever may meet one gives `connect_s`."""
DEADLINE_S = 30.0
PORT = 8000
_SECURE = {"https": True, "wss": True, "http": False, "ws": False, "blm": False}
Contract = Mapping[str, Any]


class PolicyClient:
    """A policy on a server. Thread-safe: each thread that asks has a connection to itself while it does."""

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        deadline_s: float = DEADLINE_S,
        connect_s: float = CONNECT_S,
        contract: Contract | None = None,
    ) -> None:
        """url: ws://host:port or http://host:port, perhaps wss or https. deadline_s: for each answer, connecting
        included. connect_s: for the server to say what it serves, within the deadline. contract: what you rely on
        (see `/v1/contract`); a server that serves something else refuses.

        Nothing is opened yet. UserError for a bad address.
        """
        self.url = address(url, "ws", "/blm")
        self.deadline_s, self.connect_s = deadline_s, connect_s
        self._contract = contract
        self._description: PolicyDescription | None = None
        self._numbers = itertools.count(1)
        self._calls = 0
        self._lock = threading.Lock()
        self._lines = Lines(self.url, self._greet, headers_of(key))

    def connect(self) -> PolicyDescription:
        """What the server serves. UserError if nobody answers there, or if it refuses to talk."""
        try:
            return self.description
        except ServerError as error:
            raise UserError(f"{error}; start the server, or correct its address or the key") from error

    @property
    def description(self) -> PolicyDescription:
        """What the server serves; it is asked once. Errors as for `infer_batch`."""
        if self._description is None:
            self._lines.ask(lambda line, deadline: None, Deadline(min(self.deadline_s, self.connect_s)))
        assert self._description is not None, "a connection without a greeting"
        return self._description

    def infer(self, observation: Observation, seed: int | None = None) -> ActionChunk:
        """The chunk for one observation. Without a seed, the noise follows from the number of calls since `reset`."""
        if seed is None:
            with self._lock:
                seed, self._calls = self._calls, self._calls + 1
        return self.infer_batch([observation], [seed])[0]

    def infer_batch(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> list[ActionChunk]:
        """A chunk for each observation, computed together.

        ServerTimeoutError after the deadline, ServerError for anything else that goes wrong there.
        """
        return [chunk for chunk, _ in self.infer_timed(observations, seeds, prefixes)]

    def infer_timed(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> list[tuple[ActionChunk, Timings]]:
        """As `infer_batch`, with where the time went on the server."""
        if not observations:
            return []
        number = next(self._numbers)
        frame = question(number, observations, seeds, prefixes)

        def exchange(line: Line, deadline: Deadline) -> bytes | str:
            line.send(frame, deadline)
            return line.receive(deadline)

        reply = self._lines.ask(exchange, Deadline(self.deadline_s))
        return read_answer(reply, number, len(observations), self.url)

    def reset(self) -> None:
        """Forget the episode: noise for calls without a seed starts over."""
        with self._lock:
            self._calls = 0

    def close(self) -> None:
        """Hang up."""
        self._lines.close()

    def __enter__(self) -> "PolicyClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _greet(self, line: Line, deadline: Deadline) -> None:
        line.send(hello(self._contract), deadline)
        found = read_description(read_hello(line.receive(deadline), self.url))
        with self._lock:
            if self._description is not None and found != self._description:
                raise ServerError(f"{self.url} serves another model now ({found.name} {found.identity})")
            self._description = found


def act(
    url: str,
    observation: Observation,
    *,
    seed: int = 0,
    key: str = "",
    deadline_s: float = DEADLINE_S,
    contract: Contract | None = None,
) -> ActionChunk:
    """One observation by `POST /v1/actions`, without keeping a connection. Errors as `PolicyClient.infer_batch`."""
    place = address(url, "http", "/v1/actions")
    fields = {**plain(observation), "seed": int(seed)} | ({"contract": dict(contract)} if contract else {})
    headers = {"Content-Type": "application/msgpack", "Accept": "application/msgpack", **headers_of(key)}
    request = urllib.request.Request(place, data=pack(fields), headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=deadline_s) as reply:
            return as_chunk(as_map(reply.read()))
    except urllib.error.HTTPError as error:
        raise ServerError(f"{place} says: {_complaint(error.read())}") from None
    except TimeoutError as error:
        raise ServerTimeoutError(f"no answer from {place} within {deadline_s:g} s") from error
    except OSError as error:
        raise ServerError(f"{place} cannot be reached ({error})") from error


def address(url: str, kind: str, place: str) -> str:
    """The address of a place on a server, from one of any kind. UserError for what is none."""
    try:
        parts = urlsplit(url if "://" in url else f"ws://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if not host or parts.scheme not in _SECURE:
        raise UserError(f"{url!r} is no address of a server; write ws://host:port or http://host:port")
    named = f"[{host}]" if ":" in host else host
    secure = _SECURE[parts.scheme]
    path = parts.path if parts.path not in ("", "/") else place
    return f"{kind}{'s' if secure else ''}://{named}:{port or (443 if secure else PORT)}{path}"


def headers_of(key: str) -> dict[str, str]:
    """What shows a key."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def _complaint(body: bytes) -> str:
    """The message of an error object, packed or as JSON."""
    for read in (unpack_map, json.loads):
        try:
            return str(read(body)["error"]["message"])[:300]
        except (UserError, ValueError, KeyError, TypeError):
            continue
    return body[:200].decode(errors="replace")
