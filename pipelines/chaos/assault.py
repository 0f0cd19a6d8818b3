"""The disturbed run: somebody starts the driver again whenever it is gone, and somebody kills.

Every kill is written down when it is made, and again when the stage has got on since; so is how long each stage has
taken. An assault that is itself interrupted goes on with the kills that are left.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from blm.model.errors import UserError
from blm.pipelines.chaos.advance import Advance
from blm.pipelines.chaos.driver import Driver
from blm.pipelines.chaos.nodes import Nodes
from blm.pipelines.chaos.processes import kill
from blm.pipelines.chaos.schedule import Kind, Planned, Schedule
from blm.pipelines.ledger import Ledger
from blm.pipelines.workspace import read_json_if_there, write_json

KILLS, TIMES = "kills.jsonl", "times.json"
LOOK_S = 0.3
NOTED_EVERY_S = 3.0
REPLACED_AFTER_S = 5.0
"""How long the cluster is a node short: after that another one takes its place."""
PATIENCE_S = 120.0
"""Longest wait for a stage to get over a kill before the next one is made all the same."""
MEANT_S = 20.0
"""Longest wait for a process of the kind that is meant; then another kind is taken."""
STUCK_S = 1200.0
"""Without any progress for so long, and with nobody killing, the run hangs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kill:
    """What was killed."""

    number: int
    """From 1."""
    stage: str
    """The stage under way."""
    kind: Kind
    """What was killed in the end."""
    what: str
    """The actor's class, `driver`, or the node."""
    at_s: float
    """Since the stage was begun."""
    patient: bool
    """Whether the stage had got over the one before."""
    back_s: float | None = None
    """Until the stage had the next finished piece; None: not yet."""


class Assault:
    """One disturbed run, from its beginning or from where it was left. Call `run` once."""

    def __init__(
        self,
        *,
        driver: Driver,
        nodes: Nodes,
        look: Callable[[], Advance],
        kills: int,
        durations: Mapping[str, float],
        seed: int,
        every_s: float,
        folder: Path,
        say: Callable[[str], None],
    ) -> None:
        """durations: seconds of each stage undisturbed. folder: for the books."""
        self._driver, self._nodes, self._look, self._say = driver, nodes, look, say
        self._kills, self._durations = kills, dict(durations)
        self._schedule = Schedule(kills, durations, seed=seed, every_s=every_s)
        self._rng = Random(f"victims {seed}")
        self._books = Ledger(folder / KILLS, ("number",))
        self._times_path = folder / TIMES
        self.times: dict[str, float] = read_times(folder)
        self._made = len(self._books)
        self._open: list[tuple[Kill, float, float]] = []  # kill, when by the clock, when by the calendar
        self._due_s = 0.0
        self._replace_s: list[float] = []

    def run(self) -> None:
        """Until the driver has ended well. UserError if the run hangs or cannot go on."""
        for record in self._books.records:  # of an earlier call: its share has been done
            self._schedule.carry(record["stage"])
            if self._schedule.next(record["stage"]):
                self._schedule.take(record["stage"])
        under_way, since_s, noted_s, moved_s, newest_s = None, 0.0, 0.0, time.monotonic(), 0.0
        before_s = time.monotonic()
        with self._books:
            while not self._driver.keep_going():
                time.sleep(LOOK_S)
                now, now_s = self._look(), time.monotonic()
                if now.stage != under_way:
                    under_way, since_s = now.stage, now_s - self.times.get(now.stage or "", 0.0)
                    self._begin(under_way, now_s)
                if now.stage is not None:
                    self.times[now.stage] = now_s - since_s
                if now.newest_s != newest_s:
                    newest_s, moved_s = now.newest_s, now_s
                    self._driver.got_on()
                self._settle(now)
                self._replace(now_s)
                if now_s - noted_s > NOTED_EVERY_S:
                    noted_s = now_s
                    write_json(self._times_path, {name: round(spent, 1) for name, spent in self.times.items()})
                if now_s - moved_s > STUCK_S:
                    raise UserError(f"the run has not got on for {STUCK_S:.0f} s in its stage {under_way}")
                if now.stage is not None and (planned := self._due(now.stage, now_s)):
                    self._strike(planned, now.stage, now_s, now_s - since_s)
            self._settle(self._look())
            write_json(self._times_path, {name: round(spent, 1) for name, spent in self.times.items()})
            self._say(f"the run has ended; {self._made} of {self._kills} kills, {time.monotonic() - before_s:.0f} s")

    def _begin(self, stage: str | None, now_s: float) -> None:
        """Another stage is under way."""
        if stage is None:
            return
        self._say(f"{stage} is under way; {self._made} of {self._kills} kills so far")
        self._schedule.carry(stage)
        if planned := self._schedule.next(stage):
            self._due_s = now_s + planned.pause_s

    def _settle(self, now: Advance) -> None:
        """Write down which kills the run has got over."""
        still = []
        for one, clock_s, calendar_s in self._open:
            if now.stage != one.stage or now.newest_s > calendar_s:
                back = asdict(one) | {"back_s": round(time.monotonic() - clock_s, 1)}
                self._books.add([back])
                self._due_s = max(self._due_s, time.monotonic() + self._pause_after_recovery(one.stage))
            else:
                still.append((one, clock_s, calendar_s))
        self._open = still

    def _pause_after_recovery(self, stage: str) -> float:
        planned = self._schedule.next(stage)
        return planned.pause_s if planned is not None and planned.patient else 0.0

    def _due(self, stage: str, now_s: float) -> Planned | None:
        """The kill that is to be made now, if one is."""
        planned = self._schedule.next(stage)
        if planned is None or now_s < self._due_s:
            return None
        waiting_s = max((now_s - clock_s for _, clock_s, _ in self._open), default=0.0)
        return None if planned.patient and 0 < waiting_s < PATIENCE_S else planned

    def _strike(self, planned: Planned, stage: str, now_s: float, at_s: float) -> None:
        """Kill something; nothing happens if there is nothing of it at the moment, and time to wait for it."""
        calendar_s = time.time()
        late = now_s - self._due_s > min(MEANT_S, 0.2 * self._durations[stage])
        made = self._kill(planned.kind, others=late)
        if made is None:
            return
        kind, what = made
        self._made += 1
        one = Kill(
            number=self._made,
            stage=stage,
            kind=kind,
            what=what,
            at_s=round(at_s, 1),
            patient=planned.patient,
        )
        self._books.add([asdict(one)])
        self._open.append((one, time.monotonic(), calendar_s))
        self._schedule.take(stage)
        following = self._schedule.next(stage)
        self._due_s = time.monotonic() + (following.pause_s if following else 0.0)
        self._say(f"{one.number}/{self._kills} {one.stage}, {one.at_s:.0f} s: {kind} {what}")

    def _kill(self, meant: Kind, *, others: bool) -> tuple[Kind, str] | None:
        """Kill a process of the kind that was meant; if there is none, of another one or none at all."""
        kinds: list[Kind] = ["worker", "driver", "node"]
        for kind in sorted(kinds, key=lambda name: name != meant) if others else [meant]:
            if kind == "worker" and (found := self._nodes.workers()):
                victim = self._rng.choice(found)
                if kill(victim.process):
                    return "worker", victim.name
            if kind == "node" and self._nodes.alive > 1:  # one stays, or nothing would be left to go on with
                self._replace_s.append(time.monotonic() + REPLACED_AFTER_S)
                return "node", self._nodes.kill_node(self._rng.randrange(1000))
            if kind == "driver" and self._driver.kill():
                return "driver", "driver"
        return None

    def _replace(self, now_s: float) -> None:
        """Bring nodes for those that were lost a while ago."""
        while self._replace_s and self._replace_s[0] <= now_s:
            self._replace_s.pop(0)
            self._nodes.add()


def read_kills(folder: Path) -> list[dict[str, Any]]:
    """The kills in the books, in order."""
    with Ledger(folder / KILLS, ("number",)) as books:
        return sorted(books.records, key=lambda record: record["number"])


def read_times(folder: Path) -> dict[str, float]:
    """Seconds that each stage took, by the books."""
    return read_json_if_there(folder / TIMES) or {}
