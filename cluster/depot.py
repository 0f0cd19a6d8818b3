"""Files of a run on many nodes: what a file is called here, and where it is kept for good.

A run whose `--root` is a plain folder is seen by all nodes, and nothing here does anything. A run in a *store*
(`--root s3://bucket/prefix`) is worked on in a scratch folder of each node, BLM_SCRATCH, and the store holds what is
finished. Paths travel between processes as the driver's own, below BLM_HOME; `here` and `place` say what they are
called on this node. The driver's or this node's: both are understood, and any other path stays what it is.

Safe from several processes of a node at once, and from a kill at any moment: see `blm.cluster.mirror`.
"""

import hashlib
import os
import re
import shutil
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blm.cluster.mirror import STAGE_DEPTH, Mirror
from blm.cluster.stores import Store
from blm.model.errors import UserError

STORE, HOME, SCRATCH, PATIENCE = "BLM_STORE", "BLM_HOME", "BLM_SCRATCH", "BLM_STORE_PATIENCE_S"
PATIENCE_S = 120.0
"""How long a store may be silent before work on it ends."""
ASK_AGAIN_S = 5.0
"""How long a stage is believed to be unfinished."""


def enter(root: str | Path) -> Path:
    """Work on the runs of a root from now on, in this process and those it starts: the folder of all runs here.

    root: a folder, which is returned as it is, or a store's address. UserError for an address that is none.
    """
    for name in (STORE, HOME):
        os.environ.pop(name, None)
    if "://" not in str(root):
        return Path(root)
    uri = str(root).rstrip("/")
    home = _scratch() / _key(uri)
    home.mkdir(parents=True, exist_ok=True)
    os.environ |= {STORE: uri, HOME: str(home)}
    return home


def environment() -> dict[str, str]:
    """What worker processes on other nodes must be told; empty without a store."""
    return {name: os.environ[name] for name in (STORE, HOME) if name in os.environ}


def here(path: Path) -> Path:
    """What a file or folder of the run is called on this node, brought from the store if it is not there.

    Afterwards this node's copy is what the store has, except for what was written here and not kept yet. Raises
    UserError when the store cannot be used or has a file that its stage's manifest does not know so.
    """
    depot = _depot()
    name = None if depot is None else depot.name_of(path)
    if depot is None or name is None:
        return path
    depot.bring(name)
    return depot.mirror.local / name


def place(path: Path) -> Path:
    """What a file or folder of the run is called on this node, whether or not it is there."""
    depot = _depot()
    name = None if depot is None else depot.name_of(path)
    return path if depot is None or name is None else depot.mirror.local / name


def keep(path: Path, *, content: Path | None = None) -> None:
    """Put a finished file or folder into the store, whole or not at all. What nothing has changed since is left.

    content: a file outside the run whose content is to be kept under this name. UserError if the store cannot be used.
    """
    depot = _depot()
    name = None if depot is None else depot.name_of(path)
    if depot is not None and name is not None:
        depot.mirror.send(name, content)


def drop(path: Path) -> None:
    """Delete a file or folder here and in the store."""
    depot = _depot()
    name = None if depot is None else depot.name_of(path)
    if depot is not None and name is not None:
        depot.forget(name)
        depot.mirror.delete(name)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def settle(path: Path) -> None:
    """Make a folder in the store what it is here: keep it, and delete there what is not here."""
    depot = _depot()
    name = None if depot is None else depot.name_of(path)
    if depot is not None and name is not None:
        depot.mirror.settle(name)


def sizes(path: Path) -> dict[str, int] | None:
    """Bytes of every file below a folder that is kept, by path relative to it; None without a store."""
    depot = _depot()
    name = None if depot is None else depot.name_of(path)
    if depot is None or name is None:
        return None
    return {one[len(name) + 1 :]: entry.size for one, entry in depot.mirror.store.list(name).items()}


def folders(path: Path) -> list[Path]:
    """The folders directly below the folder of all runs or one of its own, in the store; without one, here."""
    depot = _depot()
    if depot is None:
        return sorted(child for child in path.glob("*") if child.is_dir())
    name = depot.name_of(path) or ""
    return [depot.mirror.local / one for one in depot.mirror.store.folders(name)]


def name_of(path: Path) -> str | None:
    """What a file or folder of a run is called in the store, with slashes; None without one, and for any other path."""
    depot = _depot()
    return None if depot is None else depot.name_of(path)


def address(path: Path) -> str:
    """Where a person finds a file or folder for good."""
    depot = _depot()
    name = None if depot is None else depot.name_of(path)
    return str(path) if depot is None or name is None else f"{depot.mirror.store.uri}/{name}"


def has_store() -> bool:
    """Whether the runs of this process are in a store."""
    return bool(os.environ.get(STORE) and os.environ.get(HOME))


def probe(*, patience_s: float = 10.0) -> str:
    """Write, read and delete a small file in the store; its address. UserError saying what does not work."""
    uri = os.environ[STORE]
    quick, name = Store(uri, patience_s=patience_s), f".probe-{uuid.uuid4().hex}"
    quick.write(name.encode(), name)
    if quick.read(name) != name.encode():
        raise UserError(f"the store {uri} does not give back what was written; a cache stands before it")
    quick.delete([name])
    return uri


def store() -> Store | None:
    """The store of this process's runs, None without one."""
    depot = _depot()
    return None if depot is None else depot.mirror.store


@dataclass(frozen=True, kw_only=True, slots=True)
class _Depot:
    """A store as this process uses it."""

    identity: tuple[Any, ...]
    mirror: Mirror
    home: Path
    """The driver's copy; on its own node the same folder as the mirror's."""
    sums: dict[str, dict[str, str]] = field(default_factory=dict)
    """{stage's folder: {file: sha256}} of finished stages."""
    unfinished: dict[str, float] = field(default_factory=dict)
    """When a stage was last found without a manifest, by the monotonic clock."""
    whole: set[str] = field(default_factory=set)
    """What has been brought of finished stages: it changes no more."""

    def name_of(self, path: Path) -> str | None:
        """The name in the store of a path, None for one outside the run folders."""
        absolute = Path(os.path.abspath(path))
        for base in (self.home, self.mirror.local):
            if absolute != base and absolute.is_relative_to(base):
                return absolute.relative_to(base).as_posix()
        _, key, name = absolute.as_posix().partition(f"/{self.home.name}/")  # a third node's name
        return name if key and name else None

    def bring(self, name: str) -> None:
        """Bring a file or folder, and believe it for good if its stage is finished."""
        parts = name.split("/")
        if any("/".join(parts[:count]) in self.whole for count in range(1, len(parts) + 1)):
            return
        stage = "/".join(parts[:STAGE_DEPTH])
        asked_s = time.monotonic() - self.unfinished.get(stage, -ASK_AGAIN_S)
        if len(parts) >= STAGE_DEPTH and stage not in self.sums and asked_s >= ASK_AGAIN_S:
            manifest = self.mirror.manifest(stage)
            if manifest is None:
                self.unfinished[stage] = time.monotonic()
            else:
                self.sums[stage] = {f"{stage}/{file['path']}": file["sha256"] for file in manifest["files"]}
        self.mirror.bring(name, self.sums.get(stage))
        if stage in self.sums:
            self.whole.add(name)

    def forget(self, name: str) -> None:
        """Believe nothing of a file or folder any more."""
        stage = "/".join(name.split("/")[:STAGE_DEPTH])
        self.sums.pop(stage, None)
        for known in [one for one in self.whole if one.startswith(stage)]:
            self.whole.discard(known)


_depots: list[_Depot] = []
"""The one in use, if there is one."""


def _depot() -> _Depot | None:
    """The depot that the environment asks for, made at its first use in a process; a fork makes its own."""
    uri, home = os.environ.get(STORE), os.environ.get(HOME)
    if not uri or not home:
        return None
    patience_s = float(os.environ.get(PATIENCE) or PATIENCE_S)
    local = _scratch() / _key(uri)
    identity = (os.getpid(), uri, home, local, patience_s, os.environ.get("AWS_ENDPOINT_URL"))
    if not _depots or _depots[0].identity != identity:
        mirror = Mirror(store=Store(uri, patience_s=patience_s), local=local)
        _depots[:] = [_Depot(identity=identity, mirror=mirror, home=Path(home))]
    return _depots[0]


def _scratch() -> Path:
    """This node's own folder for copies."""
    return Path(os.environ.get(SCRATCH) or "~/.cache/blm/scratch").expanduser().resolve()


def _key(uri: str) -> str:
    """The folder of a store below the scratch folder: readable, and different for every store."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", uri).strip("-")[-40:]
    return f"{readable}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"
