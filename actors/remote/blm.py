"""Client of our own protocol, for evaluations: its messages are those of `blm.serve.client`."""

import itertools
from collections.abc import Sequence
from typing import Any

from blm.actors.remote.client import RemoteClient, policy_errors
from blm.model.types import ActionChunk, Observation, Prefixes
from blm.serve.client_lines import Deadline, Line
from blm.serve.client_messages import hello, question, read_answer, read_hello


class BlmClient(RemoteClient):
    """A policy behind `blm policy-server` or `blm serve`."""

    _numbers = itertools.count(1)

    def infer_batch(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> list[ActionChunk]:
        """As `RemoteClient`, prefixes included if the policy can go on from them."""
        if not observations:
            return []
        number = next(self._numbers)
        frame = question(number, observations, seeds, prefixes)

        def exchange(line: Line, deadline: Deadline) -> bytes | str:
            line.send(frame, deadline)
            return line.receive(deadline)

        with policy_errors():
            reply = self._lines.ask(exchange, Deadline(self.deadline_s))
            return [chunk for chunk, _ in read_answer(reply, number, len(observations), self.url)]

    def _greet(self, line: Line, deadline: Deadline) -> Any:
        line.send(hello(), deadline)
        return read_hello(line.receive(deadline), self.url)
