"""One driver at a time for a run in a store: a claim, renewed every few seconds, that dies with its holder.

Stores have no locks. Each driver writes an object of its own beside the run, says in it what it is about to do, and
then looks at the others'. None holds the run while it sees another one asking or holding, and of any two that ask the
later one sees the first. (That needs a store that lists what has been written, as S3 does.)

A claim counts as long as it changes. Its age is never compared between clocks: whoever wants the run watches the claim
for `stale_s`, and takes the run when it has not changed. A dead driver's claim of this node is taken at once, because
the node's own lock says that its process is gone.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blm.cluster.stores import Store
from blm.model.errors import UserError

CLAIMS = ".drivers"
BEAT_S, STALE_S = 10.0, 45.0
LOOK_S = 1.0
START_PATIENCE_S = 15.0


@dataclass(kw_only=True, slots=True)
class Claim:
    """A driver's claim on a run."""

    store: Store
    name: str
    """Of its object."""
    record: dict[str, Any]
    stale_s: float
    _written_s: float = 0.0
    _lost: bool = False
    _stop: threading.Event = field(default_factory=threading.Event)

    def write(self, state: str) -> None:
        """Say what this driver is about to do: asking, waiting or holding."""
        self.record |= {"state": state, "beat": self.record["beat"] + 1}
        self.store.write(json.dumps(self.record).encode(), self.name)
        self._written_s = time.monotonic()

    def check(self) -> None:
        """UserError if another driver may have taken the run meanwhile."""
        silent_s = time.monotonic() - self._written_s
        if self._lost or silent_s > self.stale_s:
            raise UserError(
                f"this process has lost the run: its claim in {self.store.uri} was not renewed for {silent_s:.0f} s; "
                "give the same command again: what is finished is kept"
            )

    def beat(self, every_s: float) -> None:
        """Renew the claim until `stop`; to be called in a thread."""
        while not self._stop.wait(every_s):
            try:
                if self.store.find(self.name) is None:
                    self._lost = True
                    return
                self.write("holding")
            except UserError:  # tried again at the next beat; `check` knows how long it has been
                continue

    def stop(self) -> None:
        """Renew no more."""
        self._stop.set()


@contextlib.contextmanager
def claimed(
    uri: str,
    run: str,
    node: str,
    *,
    beat_s: float = BEAT_S,
    stale_s: float = STALE_S,
    patience_s: float = START_PATIENCE_S,
) -> Iterator[Claim]:
    """Hold a run in a store for this process.

    run: its name. node: what drivers share that exclude each other by a lock of the node (`node_id`). patience_s: for
    how long the store may be silent. UserError if another driver holds the run, or if the store cannot be used.
    """
    name = f"{run}/{CLAIMS}/{uuid.uuid4().hex}.json"
    holder = f"process {os.getpid()} on {socket.gethostname()} (since {time.strftime('%Y-%m-%d %H:%M:%S')})"
    claim = Claim(
        store=Store(uri, patience_s=patience_s),
        name=name,
        record={"holder": holder, "node": node, "beat": 0},
        stale_s=stale_s,
    )
    beating = threading.Thread(target=claim.beat, args=(beat_s,), name="claim", daemon=True)
    try:
        _wait_for_turn(claim, run)
        claim.write("holding")
        beating.start()
        yield claim
    finally:
        claim.stop()
        if beating.is_alive():
            beating.join()
        with contextlib.suppress(UserError):  # of an unreachable store: the claim goes stale
            claim.store.delete([name])


def holder(store: Store, run: str) -> str | None:
    """Who has claimed a run, None if nobody has. The claim may be a dead driver's."""
    for name in store.list(f"{run}/{CLAIMS}"):
        record = _read(store, name)
        if record is not None and record["state"] == "holding":
            return str(record["holder"])
    return None


def node_id(folder: Path) -> str:
    """The identity of a scratch folder: drivers that see the same one exclude each other by its locks."""
    path = folder / ".node"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".tmp-{uuid.uuid4().hex}"
        temporary.write_text(uuid.uuid4().hex)
        with contextlib.suppress(FileExistsError):  # unlike a renaming, a link leaves another process's identity alone
            os.link(temporary, path)
        temporary.unlink()
    return path.read_text()


def _wait_for_turn(claim: Claim, run: str) -> None:
    """Return once no other driver holds the run or is about to. UserError if one that is alive does."""
    seen: dict[str, tuple[int, float]] = {}
    told = False
    claim.write("asking")
    while True:
        others = _others(claim, run, seen)
        before = [n for n, other in others.items() if other["state"] == "holding" or _asks_first(n, other, claim.name)]
        if not any(other["state"] in ("asking", "holding") for other in others.values()):
            if claim.record["state"] == "asking":
                return
            claim.write("asking")
            continue
        if before and claim.record["state"] == "asking":
            claim.write("waiting")
        if before and not told:
            told = True
            text = f"claimed by {others[before[0]]['holder']}; waiting {claim.stale_s:.0f} s for a sign of life"
            print(f"[run] {run} is {text}", flush=True)
        time.sleep(LOOK_S)


def _asks_first(name: str, other: dict[str, Any], mine: str) -> bool:
    return other["state"] == "asking" and name < mine


def _others(claim: Claim, run: str, seen: dict[str, tuple[int, float]]) -> dict[str, dict[str, Any]]:
    """Records of the other claims that may be alive, by name; those that are not are deleted.

    seen: when each had which beat. UserError as soon as one that holds the run has changed under our eyes.
    """
    others: dict[str, dict[str, Any]] = {}
    for name in claim.store.list(f"{run}/{CLAIMS}"):
        record = None if name == claim.name else _read(claim.store, name)
        if record is None:
            continue
        beat, since_s = seen.setdefault(name, (record["beat"], time.monotonic()))
        if record["node"] == claim.record["node"] or time.monotonic() - since_s > claim.stale_s:
            claim.store.delete([name])
        elif record["beat"] != beat and record["state"] == "holding":
            raise UserError(
                f"run {run} in {claim.store.uri} is in use by {record['holder']}; wait until it ends, or choose "
                "another run with --name"
            )
        else:
            if record["beat"] != beat:
                seen[name] = (record["beat"], time.monotonic())
            others[name] = record
    return others


def _read(store: Store, name: str) -> dict[str, Any] | None:
    """A claim's record, None if it is gone or none of ours."""
    try:
        record = json.loads(store.read(name) or b"null")
    except ValueError:
        return None
    return record if isinstance(record, dict) and {"holder", "node", "state", "beat"} <= record.keys() else None
