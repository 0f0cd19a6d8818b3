"""Which folder each stage of a run writes to, what is finished in it, and whether that may be used again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blm.cluster import depot
from blm.model.errors import UserError
from blm.pipelines.fingerprint import code_hash, fingerprint
from blm.pipelines.stages import Stage
from blm.pipelines.workspace import MANIFEST, accept_code, check_manifest, made_by_other_code, read_manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A stage with the identity it has in one run."""

    stage: Stage
    config: Any
    """The stage's own configuration."""
    fingerprint: str
    """64 hex; see `blm.pipelines.fingerprint`."""
    version: int
    """VERSION of the stage's module."""
    folder: Path
    """Where it writes."""

    @property
    def code(self) -> str:
        """Hash of the code that would run now."""
        return code_hash(self.stage.module_name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """A finished stage."""

    folder: Path
    manifest: dict[str, Any]


def make_plan(config: Any, stages: Sequence[Stage], run_root: Path) -> dict[str, Step]:
    """The steps of a run, by stage name, in order.

    Fingerprints need no output: they chain through the inputs' fingerprints.
    """
    plan: dict[str, Step] = {}
    for stage in stages:
        _, version = stage.load()
        identity = fingerprint(
            stage=stage.name,
            version=version,
            config=getattr(config, stage.name),
            world=config.world,
            seed=config.seed,
            inputs={name: plan[name].fingerprint for name in stage.inputs},
        )
        plan[stage.name] = Step(
            stage=stage,
            config=getattr(config, stage.name),
            fingerprint=identity,
            version=version,
            folder=run_root / f"{stage.name}-{identity[:8]}",
        )
    return plan


def finished(step: Step, plan: Mapping[str, Step]) -> dict[str, Any] | None:
    """The manifest of a finished step, checked against its files and its inputs; None if it is not finished.

    Raises UserError if it is damaged or was made from other data.
    """
    manifest = read_manifest(step.folder)
    if manifest is not None:
        check_manifest(step.folder, manifest, fingerprint=step.fingerprint, inputs=input_identities(step, plan))
    return manifest


def input_identities(step: Step, plan: Mapping[str, Step]) -> dict[str, dict[str, str]]:
    """{stage: {"fingerprint", "content"}} of a step's inputs. UserError naming the first one that is not finished."""
    identities = {}
    for name in step.stage.inputs:
        manifest = read_manifest(plan[name].folder)
        if manifest is None:
            raise UserError(
                f"{step.stage.name} needs {name}, which is not finished in {plan[name].folder.parent}; run "
                f"`blm {name}` with the same options first, or `blm run --until {step.stage.name}`"
            )
        identities[name] = {"fingerprint": manifest["fingerprint"], "content": manifest["content"]}
    return identities


def check_code(steps: Sequence[Step], *, accept: bool) -> None:
    """UserError naming every step whose work on disk was made by other code; with `accept`, record that it is kept."""
    other = [step for step in steps if made_by_other_code(step.folder, step.code)]
    if not other:
        return
    if accept:
        for step in other:
            accept_code(step.folder, step.code)
        return
    names = ", ".join(step.stage.name for step in other)
    raise UserError(
        f"{other[0].folder.parent} holds work of other code than this: {names}; keep it with --accept-code, make it "
        f"anew with --from {other[0].stage.name}, or leave it alone and choose another run with --name"
    )


def discard(steps: Sequence[Step]) -> None:
    """Delete the folders of steps, last one first: a kill in between leaves no step standing on a missing input."""
    for step in reversed(steps):
        if step.folder.exists() or depot.has_store():
            depot.drop(step.folder / MANIFEST)  # half a deletion must not look finished
            depot.drop(step.folder)
