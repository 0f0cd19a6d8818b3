"""The two processes of clients that `blm bench serve` drives: robots in one, people in the other."""

import contextlib
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from blm.model.errors import UserError
from blm.pipelines.benchmarks.workers import Worker

COMMAND = (sys.executable, "-m", "blm.pipelines.benchmarks.serve_load")


class Clients:
    """Asks servers. UserError, with what the server said, for whatever is refused or breaks."""

    def __init__(self, robots: Worker, people: Worker) -> None:
        self._robots = robots
        self._people = people

    def describe(self, url: str) -> dict[str, Any]:
        """What the server says of its policy."""
        return _good(self._robots.ask({"do": "describe", "url": url}), url)

    def act(self, url: str, *, clients: int, seconds: float, protocol: str = "blm") -> dict[str, Any]:
        """As many robots for so long: `wall_ms` and `timing` of all answers."""
        wanted = {"clients": clients, "seconds": seconds, "protocol": protocol}
        return _good(self._robots.ask({"do": "act", "url": url, **wanted}), url)

    def talk(self, url: str, **wanted: Any) -> dict[str, Any]:
        """Conversations; wanted: as `serve_load` takes it."""
        return _good(self._people.ask({"do": "talk", "url": url, **wanted}), url)

    @contextmanager
    def talking(self, url: str, **wanted: Any) -> Iterator[None]:
        """Conversations that go on while something else is measured; what is left of them is waited for."""
        self._people.send({"do": "talk", "url": url, **wanted})
        try:
            yield
        finally:
            answer = self._people.receive()
        _good(answer, url)


@contextlib.contextmanager
def clients_at_work() -> Iterator[Clients]:
    """Both processes until the block ends."""
    with closing(Worker(COMMAND, core=None)) as robots, closing(Worker(COMMAND, core=None)) as people:
        yield Clients(robots, people)


def _good(answer: dict[str, Any], url: str) -> dict[str, Any]:
    if "error" in answer:
        raise UserError(f"{url} did not answer as it must: {answer['error']}")
    return answer
