"""The run folder: where a stage writes, how a finished stage is known, and when its result may be used again.

    runs/<name>/run.json                     what was last asked of this run
    runs/<name>/<stage>-<hash8>/             one stage's output; the hash is its fingerprint's beginning
    runs/<name>/<stage>-<hash8>/stage.json   written first: a stage has begun here, by which code
    runs/<name>/<stage>-<hash8>/manifest.json written last and whole: its presence means the stage is complete

A folder without a manifest is kept, and the stage goes on in it. A manifest is believed only as far as it can be
checked: its fingerprint, its files' sizes, the content of the inputs it was made from, and the code that made it.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from blm.actors.sim.world import WorldConfig
from blm.cluster import depot
from blm.cluster.asks import asked
from blm.model.errors import UserError
from blm.pipelines.tracking import RUN_ID_FILE, Tracker

MANIFEST = "manifest.json"
BEGUN = "stage.json"
MANIFEST_FORMAT = 1
OWNER = ".owner"
BOOKKEEPING = frozenset({MANIFEST, BEGUN, RUN_ID_FILE, OWNER})
"""Files of a stage folder that are not its output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResourceConfig:
    """What the machine may give. Never part of a fingerprint: the same work on more workers is the same work."""

    num_cpus: int = 2
    """Logical CPUs that a locally started Ray offers."""
    num_gpus: int = 0
    """GPUs that a locally started Ray offers."""
    object_store_gb: float = 1.0
    """Shared memory for Ray's objects."""
    train_workers: int = 2
    """Processes of Stage I and Stage II training."""
    policy_workers: int = 0
    """Processes of Stage II's training; 0: as many as `train_workers`. On one machine without GPUs one is best: so
    small a policy gains more from all threads in one process than from several that must agree after every step."""
    least_train_workers: int = 1
    """On several nodes: training goes on with no fewer processes when nodes are lost, and with more of them again when
    nodes return. As many as `train_workers`: it waits for them instead, and its result keeps its bits."""
    actors: int | Literal["auto"] = 2
    """Simulator processes side by side; auto: the evaluation measures how many keep its policy busy, other stages start
    one a CPU."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where models run."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the frozen multimodal model and of mixed-precision training."""

    @property
    def simulators(self) -> int:
        """Simulator processes where nothing is measured."""
        return self.num_cpus if self.actors == "auto" else self.actors

    @property
    def for_policy(self) -> "ResourceConfig":
        """The same with the workers of Stage II's training as `train_workers`."""
        return replace(self, train_workers=self.policy_workers or self.train_workers)

    @property
    def model_workers(self) -> dict[str, Any]:
        """How many processes run the frozen model side by side, and what each asks for, as `map_items` wants it: as
        many as train, on GPUs one each; on CPUs as many as simulate.
        """
        workers = self.train_workers if self.device == "cuda" else self.simulators
        return {"workers": workers, "ask": asked("intents", "model", device=self.device)}

    def __post_init__(self) -> None:
        for name in ("num_cpus", "train_workers", "least_train_workers", "simulators"):
            if getattr(self, name) < 1:
                given = "actors" if name == "simulators" else name
                raise UserError(f"{given} is {getattr(self, name)}; give 1 or more")
        if min(self.num_gpus, self.policy_workers) < 0 or self.object_store_gb <= 0:
            raise UserError("num_gpus and policy_workers must be 0 or more, and object_store_gb above 0")
        if self.device == "cuda" and self.num_gpus == 0:
            raise UserError("device is cuda but num_gpus is 0; set both, or device to cpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageContext:
    """Everything a stage gets beside its own configuration."""

    out: Path
    """The stage's folder. It may hold an earlier attempt's work."""
    inputs: Mapping[str, Path]
    """Finished folders of the stages this one depends on, by stage name."""
    world: WorldConfig
    """The simulated world."""
    seed: int
    """Root of all randomness."""
    tracker: Tracker
    """Where parameters and metrics go."""
    resources: ResourceConfig
    """What the machine may give."""

    @property
    def stage(self) -> str:
        """The stage's name."""
        return self.out.name.partition("-")[0]

    def progress(self, text: str) -> None:
        """Tell the person watching how far the stage is."""
        print(f"[{self.stage}] {text}", flush=True)


# ------------------------------------------------------------------------------------------------------------- files


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the whole new one."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".tmp-{os.getpid()}-{path.name}"
    temporary.write_text(text)
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    """Read JSON. UserError naming the file if it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error})") from error


def read_json_if_there(path: Path) -> Any:
    """Read JSON, or None without the file. UserError if it is damaged."""
    return read_json(path) if path.exists() else None


def list_files(folder: Path) -> list[dict[str, Any]]:
    """Every output file of a stage folder as {"path", "bytes", "sha256"}, sorted by path; bookkeeping left out."""
    entries = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name in BOOKKEEPING or path.name.startswith(".tmp-"):
            continue
        with path.open("rb") as file:
            entries.append(
                {"path": name, "bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
            )
    return entries


def content_hash(files: list[dict[str, Any]]) -> str:
    """sha256 (64 hex) of a folder's file list: equal when every file is."""
    lines = "".join(f"{f['path']} {f['sha256']}\n" for f in files)
    return hashlib.sha256(lines.encode()).hexdigest()


# ---------------------------------------------------------------------------------------------------------- manifest


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished stage folder, None if the stage is not finished. UserError if it is damaged."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    stage = folder.name.partition("-")[0]
    cure = f"delete the folder {depot.address(folder)}, or run again with --from {stage}"
    try:
        manifest = read_json(path)
    except UserError as error:
        raise UserError(f"stage {stage}: {error}; {cure}") from error
    needed = {"format", "stage", "fingerprint", "content", "inputs", "files", "summary", "code", "wall_s"}
    if not isinstance(manifest, dict) or not needed <= manifest.keys() or manifest["format"] != MANIFEST_FORMAT:
        raise UserError(f"stage {stage}: {path} is not a manifest of this version of blm; {cure}")
    return manifest


def check_manifest(
    folder: Path, manifest: Mapping[str, Any], *, fingerprint: str, inputs: Mapping[str, Mapping[str, str]]
) -> None:
    """UserError unless a finished folder is what its manifest says, and was made from the inputs given.

    inputs: {stage: {"fingerprint", "content"}} of the inputs as they are now.
    """
    stage = manifest["stage"]
    cure = f"delete the folder {depot.address(folder)}, or run again with --from {stage}"
    if manifest["fingerprint"] != fingerprint:
        raise UserError(f"stage {stage}: {folder} was made for another configuration than its name says; {cure}")
    for name, now in inputs.items():
        made_from = manifest["inputs"].get(name, {})
        if made_from.get("content") != now["content"]:
            raise UserError(
                f"stage {stage}: {folder} was made from other data: {name} has been made anew since; "
                f"run again with --from {stage}"
            )
    kept = depot.sizes(folder)  # in a store: what is here may be a part of it
    for entry in manifest["files"]:
        path = folder / entry["path"]
        size = _size(path) if kept is None else kept.get(entry["path"])
        if size is None:
            raise UserError(f"stage {stage}: {depot.address(path)} is missing from a finished stage; {cure}")
        if size != entry["bytes"]:
            raise UserError(
                f"stage {stage}: {depot.address(path)} has {size} bytes, it was written with {entry['bytes']}; {cure}"
            )


def _size(path: Path) -> int | None:
    """Bytes of a file, None if there is none."""
    return path.stat().st_size if path.is_file() else None


def accept_code(folder: Path, code: str) -> None:
    """Record that a person keeps what is in a stage folder although the code has changed since."""
    for name in (MANIFEST, BEGUN):
        path = folder / name
        if path.exists():
            record = read_json(path)
            accepted = record.setdefault("accepted_code", [])
            if code not in accepted:
                accepted.append(code)
                write_json(path, record)
                depot.keep(path)


def made_by_other_code(folder: Path, code: str) -> bool:
    """Whether the finished or half-finished work in a stage folder was made by code with another hash."""
    for name in (MANIFEST, BEGUN):
        if (folder / name).exists():
            record = read_json(folder / name)
            return code != record.get("code") and code not in record.get("accepted_code", [])
    return False
