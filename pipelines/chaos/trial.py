"""One trial: an undisturbed run, a disturbed one with the same configuration, and what became of it.

    <folder>/undisturbed, <folder>/disturbed    the runs, unless they live in a store
    <folder>/books-*/                           what was killed, and how long each stage took
    <folder>/*.log                              what the drivers printed
    <folder>/chaos.json                         the result

What is finished of it is not done again: a trial that was interrupted goes on.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blm.cluster import depot
from blm.model.errors import UserError
from blm.pipelines.chaos.advance import Advance, advance
from blm.pipelines.chaos.assault import Assault, read_kills, read_times
from blm.pipelines.chaos.comparison import compare
from blm.pipelines.chaos.counts import tallies
from blm.pipelines.chaos.driver import Driver
from blm.pipelines.chaos.nodes import Nodes
from blm.pipelines.chaos.results import Result
from blm.pipelines.keeping import RUN
from blm.pipelines.workspace import read_json, read_json_if_there, read_manifest, write_json

STATE = "state.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What is tried."""

    folder: Path
    """For everything on this machine."""
    root: str
    """Where the two runs live: a folder, or a store's address."""
    name: str
    """Of both runs."""
    stages: Sequence[str]
    """Those that are run, in order."""
    command: Callable[[str, str], Sequence[str]]
    """The driver's command, from a root and the address of a cluster."""
    kills: int
    seed: int
    every_s: float
    """Least mean time between two kills."""
    nodes: int = 2
    """Beside the head."""
    cpus: int = 2
    """Of each node."""
    reference: Path | None = None
    """A finished run to compare with; None: it is made."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Of the drivers, beside this process's own."""


def run_trial(trial: Trial, say: Callable[[str], None]) -> Result:
    """Make what is missing, compare, and write `chaos.json`. UserError for anything a person can mend."""
    trial.folder.mkdir(parents=True, exist_ok=True)
    _same_as_before(trial)
    reference = _Side(trial, "undisturbed", trial.reference)
    if trial.reference is None:
        reference.finish(0, dict.fromkeys(trial.stages, 1.0), say)
    expected = reference.bring()
    durations = {stage: max(_wall_s(expected / name), 0.1) for stage, name in stage_folders(expected, trial.stages)}
    side = _Side(trial, "disturbed", None)
    side.finish(trial.kills, durations, say)
    found = side.bring()
    folders = dict(stage_folders(found, trial.stages))
    if folders != dict(stage_folders(expected, trial.stages)):
        raise UserError(f"{expected} was made with another configuration than {found}; give another --reference")
    state = read_json(trial.folder / STATE)
    result = Result(
        planned=trial.kills,
        seed=trial.seed,
        kills=side.kills(),
        undisturbed_s=durations,
        disturbed_s=side.times(),
        starts=state.get("starts", 0),
        gave_up=state.get("gave_up", 0),
        tallies=tallies(expected, found, folders),
        compared=compare(expected, found, folders),
    )
    write_json(trial.folder / "chaos.json", result.to_json())
    return result


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two runs."""

    trial: Trial
    name: str
    given: Path | None
    """Where it is finished already; nothing is ever run there."""

    @property
    def root(self) -> str:
        return f"{self.trial.root.rstrip('/')}/{self.name}"

    @property
    def scratch(self) -> Path:
        return self.trial.folder / f"scratch-{self.name}"

    @property
    def in_store(self) -> bool:
        return "://" in self.root and self.given is None

    def copies(self) -> list[Path]:
        """Where some of the run's files are."""
        if self.given is not None:
            return [self.given]
        return sorted(self.scratch.glob(f"*/*/{self.trial.name}")) if self.in_store else [self.local()]

    def local(self) -> Path:
        return Path(self.root) / self.trial.name

    def look(self) -> Advance:
        return advance(self.copies, self.trial.stages)

    def finish(self, kills: int, durations: Mapping[str, float], say: Callable[[str], None]) -> None:
        """Run what is not finished, killing as often as asked."""
        if self.copies() and self.look().stage is None:
            return
        trial, driver_scratch = self.trial, self.scratch / "driver"
        driver_scratch.mkdir(parents=True, exist_ok=True)
        environment = {**trial.environment, depot.SCRATCH: str(driver_scratch)}
        books = trial.folder / f"books-{self.name}"
        books.mkdir(exist_ok=True)
        say(f"{self.name} run, on a head and {trial.nodes} nodes of {trial.cpus} CPUs; log: {self._log}")
        with (
            Nodes(nodes=trial.nodes, cpus=trial.cpus, scratch=self.scratch) as nodes,
            Driver(trial.command(self.root, nodes.address), self._log, environment) as driver,
        ):
            assault = Assault(
                driver=driver,
                nodes=nodes,
                look=self.look,
                kills=kills,
                durations=durations,
                seed=trial.seed,
                every_s=trial.every_s,
                folder=books,
                say=say,
            )
            try:
                assault.run()
            finally:
                self._note(driver)

    @property
    def _log(self) -> Path:
        return self.trial.folder / f"{self.name}.log"

    def _note(self, driver: Driver) -> None:
        """How often the disturbed run's driver was started and gave up, with what earlier calls noted."""
        if self.name == "disturbed":
            state = read_json(self.trial.folder / STATE)
            state["starts"] = state.get("starts", 0) + driver.starts
            state["gave_up"] = state.get("gave_up", 0) + driver.gave_up
            write_json(self.trial.folder / STATE, state)

    def kills(self) -> list[dict[str, Any]]:
        """What was killed, in order."""
        return read_kills(self.trial.folder / f"books-{self.name}")

    def times(self) -> dict[str, float]:
        """Seconds that each stage took, with everything that happened in it."""
        return read_times(self.trial.folder / f"books-{self.name}")

    def bring(self) -> Path:
        """The finished run on this disk."""
        if not self.in_store:
            return self.copies()[0]
        os.environ[depot.SCRATCH] = str(self.scratch / "driver")
        home = depot.enter(self.root)
        return depot.here(home / self.trial.name)


def stage_folders(run: Path, stages: Sequence[str]) -> list[tuple[str, str]]:
    """(stage, its folder's name) of a run. UserError if it has none of the name."""
    known = read_json(run / RUN)["stages"]
    if missing := [stage for stage in stages if stage not in known]:
        raise UserError(f"{run} has no stage {missing[0]}")
    return [(stage, known[stage]["folder"]) for stage in stages]


def _wall_s(folder: Path) -> float:
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder} is not finished; an undisturbed run is needed to compare with")
    return float(manifest["wall_s"])


def _same_as_before(trial: Trial) -> None:
    """UserError if the folder holds a trial with another seed or number of kills."""
    asked = {"kills": trial.kills, "seed": trial.seed, "every_s": trial.every_s, "root": trial.root}
    before = read_json_if_there(trial.folder / STATE) or {}
    if before and any(before.get(name) != value for name, value in asked.items()):
        raise UserError(f"{trial.folder} holds a trial with other options ({before}); choose another --out")
    write_json(trial.folder / STATE, before | asked)
