"""A study: the base and its ablations in one run folder, so that what they have in common is made once.

Every ablation is a run of the whole pipeline with other options. A stage's folder is named after the fingerprint of
what it was asked, so a stage that an ablation leaves alone is the base's, and one that is finished is not run again:
a study that was broken off goes on by the same command, and one with more ablations adds to what is there.
"""

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blm.cluster.ray_runtime import cause_of
from blm.model.errors import UserError
from blm.pipelines.ablation.variants import BASE, COMMON, Ablation
from blm.pipelines.keeping import RUN
from blm.pipelines.plan import Done, Step, finished, make_plan
from blm.pipelines.run import RunOptions, run
from blm.pipelines.show import rule
from blm.pipelines.stages import STAGES, Stage
from blm.pipelines.workspace import write_text

LAST = "evaluate"
"""The stage whose result is compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """What is compared."""

    load: Callable[[Sequence[str]], Any]
    """The configuration with some overrides; without any, the base."""
    ablations: Sequence[Ablation]
    seeds: Sequence[int]
    """Each of them repeats base and ablations from the first stage on."""
    options: RunOptions
    """Where, on which cluster."""
    stages: Sequence[Stage] = STAGES
    common: Sequence[str] = COMMON
    """Overridden in every ablation."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.options.root / self.load([]).name

    def config(self, ablation: Ablation | None, seed: int) -> Any:
        """The configuration of an ablation, or of the base."""
        overrides = [] if ablation is None else [*self.common, *ablation.beside, *ablation.overrides]
        return self.load([*overrides, f"seed={seed}"])

    def plan(self, config: Any) -> dict[str, Step]:
        """The stages of a configuration."""
        return make_plan(config, self.stages, self.folder)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One ablation, or the base, with one seed."""

    ablation: Ablation
    seed: int
    done: Mapping[str, Done]
    """Its finished stages, by name."""
    shared: frozenset[str] = frozenset()
    """Those that are the base's."""
    error: str = ""
    """What ended it."""
    note: str = ""
    """Why it was not run."""


THE_BASE = Ablation(name=BASE, about="as configured", overrides=())


def run_study(study: Study) -> list[Outcome]:
    """Run what is not finished: the base with every seed, then the ablations. An ablation that fails is told of, and
    the others go on; without the base there is nothing to compare with, so its error is raised."""
    outcomes: list[Outcome] = []
    total = (1 + len(study.ablations)) * len(study.seeds)
    for seed in study.seeds:
        _announce(THE_BASE, seed, len(outcomes) + 1, total)
        done = run(study.config(None, seed), replace(study.options, until=LAST), study.stages)
        outcomes.append(Outcome(ablation=THE_BASE, seed=seed, done=done))
    with _as_asked(study):
        for ablation in study.ablations:
            for seed in study.seeds:
                _announce(ablation, seed, len(outcomes) + 1, total)
                outcomes.append(_run_one(study, ablation, seed))
    return outcomes


def _run_one(study: Study, ablation: Ablation, seed: int) -> Outcome:
    """An ablation with one seed, from start to end or to its error."""
    try:
        if unchanged(study, ablation):
            return Outcome(ablation=ablation, seed=seed, done={}, note="is the base here")
        done = run(study.config(ablation, seed), replace(study.options, until=LAST), study.stages)
    except Exception as error:
        cause = cause_of(error)
        if cause is None:
            traceback.print_exception(error)
        text = " ".join(str(cause or f"{type(error).__name__}: {error}").split())
        print(f"   ablation {ablation.name} failed: {text}", flush=True)
        return Outcome(ablation=ablation, seed=seed, done={}, error=text)
    return Outcome(ablation=ablation, seed=seed, done=done, shared=_shared(study, done, seed))


def unchanged(study: Study, ablation: Ablation) -> bool:
    """Whether an ablation is the base itself: it leaves out what this configuration does not have."""
    return bool(study.load(ablation.overrides) == study.load([]))


def earlier(study: Study, ablations: Sequence[Ablation]) -> Iterator[Outcome]:
    """Of ablations that are not asked for now, those that are finished for the same base and seeds."""
    asked = {ablation.name for ablation in study.ablations}
    for ablation in ablations:
        for seed in study.seeds if ablation.name not in asked else ():
            try:
                plan = study.plan(study.config(ablation, seed))
                manifests = {name: finished(plan[name], plan) for name in _chain(study)}
            except UserError:  # options that this base does not allow, or work that is not whole
                continue
            done = {
                name: Done(folder=plan[name].folder, manifest=manifest)
                for name, manifest in manifests.items()
                if manifest is not None
            }
            if LAST in done and not unchanged(study, ablation):
                yield Outcome(ablation=ablation, seed=seed, done=done, shared=_shared(study, done, seed))


def _chain(study: Study) -> list[str]:
    """Names of the stages up to the one that is compared, in order."""
    names = [stage.name for stage in study.stages]
    return names[: names.index(LAST) + 1]


def _shared(study: Study, done: Mapping[str, Done], seed: int) -> frozenset[str]:
    """Names of the stages that are the base's."""
    base = study.plan(study.config(None, seed))
    return frozenset(name for name, item in done.items() if base[name].folder.name == item.folder.name)


@contextmanager
def _as_asked(study: Study) -> Iterator[None]:
    """Keep run.json what the base's run wrote: `blm status` is about the base."""
    path = study.folder / RUN
    text = path.read_text()
    try:
        yield
    finally:
        write_text(path, text)


def _announce(ablation: Ablation, seed: int, number: int, total: int) -> None:
    print(rule(f"{number} of {total}: {ablation.name}, seed {seed}"))
    print(f"   {ablation.about}", flush=True)
