"""A folder of this node and the store behind it: brings what is missing or has changed, sends what is finished.

How the two are compared. A file that came from the store, or went to it, carries the store's time as its own, cut to
milliseconds, and behind them nanoseconds that follow from its name, so that a copy or a link has the wrong ones. Such a
file is *clean*, and follows the store: it is brought again when the store has another one, and removed when the store
has none. Any other file was written here and never sent, and stays, unless the store has a younger one. So nothing has
to be written down beside the files, and no kill can make it wrong.

Folders below a stage's folder are whole or absent: while one is sent, an object KEEPING stands in it, and nothing in a
folder that has one is brought. A stage's own folder is known as complete by its manifest, which goes last.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blm.cluster.stores import BLOCK, HIDDEN, Entry, Store
from blm.model.errors import UserError

MANIFEST = "manifest.json"
KEEPING = ".keeping"
MILLISECOND_NS = 1_000_000
STAGE_DEPTH = 2
"""A stage's folder is RUN/STAGE below the store."""
YOUNG_NS = 2_000_000_000
THREADS = 8
LOCKS = ".locks"
LOCK_FILES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Mirror:
    """`local` is this node's copy of `store`; names are relative to both."""

    store: Store
    local: Path

    def bring(self, name: str, sums: Mapping[str, str] | None = None) -> None:
        """Make the copy of a file or folder what the store has.

        sums: sha256 by name of everything that a finished stage has made; what they do not name is left, but for files
        directly in the stage's folder. UserError for a file that is not what its sum says.
        """
        found = self.store.find(name)
        if isinstance(found, Entry):
            entries = {name: found}
        else:
            listed = self.store.list(name) if found else {}
            broken = tuple(one.removesuffix(KEEPING) for one in listed if one.endswith(f"/{KEEPING}"))
            if sums is None:
                entries = {one: entry for one, entry in listed.items() if not one.startswith(broken)}
            else:
                entries = {one: entry for one, entry in listed.items() if one in sums or one.count("/") == STAGE_DEPTH}
        self._forget_missing(name, entries, sums)
        _in_threads(lambda one: self._bring_file(one, entries[one], (sums or {}).get(one)), entries)

    def send(self, name: str, source: Path | None = None) -> None:
        """Put a file or folder into the store. source: another file with the content that is to have the name."""
        path = self.local / name
        if path.is_file() or source is not None:
            _in_threads(lambda one: self._send_file(one, source), [name])
            return
        names = [child.relative_to(self.local).as_posix() for child in _files(path)]
        if not names:
            return
        known = self.store.list(name)
        names = [one for one in names if one not in known or not self._same(one, known[one])]
        if not names and f"{name}/{KEEPING}" not in known:
            return
        is_piece = name.count("/") >= STAGE_DEPTH
        if is_piece:
            _in_threads(lambda one: self.store.write(b"", one), [f"{name}/{KEEPING}"])
        last = {one for one in names if one.endswith(".json")}  # what says how far a folder is, or that it is complete
        _in_threads(self._send_file, [one for one in names if one not in last])
        for one in sorted(last, key=lambda one: (one == f"{name}/{MANIFEST}", (self.local / one).stat().st_mtime_ns)):
            _in_threads(self._send_file, [one])
        if is_piece:
            self.store.delete([f"{name}/{KEEPING}"])

    def settle(self, name: str) -> None:
        """Send a folder, and delete what the store has in it beyond what is here."""
        self.send(name)
        surplus = [one for one in self.store.list(name) if not (self.local / one).is_file()]
        _in_threads(lambda one: self.store.delete([one]), surplus)

    def delete(self, name: str) -> None:
        """Delete a file or folder in the store and here. What is left of it by a kill looks complete nowhere."""
        path, found = self.local / name, self.store.find(name)
        if found == "folder":
            self.store.delete([f"{name}/{MANIFEST}"])
            if name.count("/") >= STAGE_DEPTH:
                self.store.write(b"", f"{name}/{KEEPING}")
            names = [one for one in self.store.list(name) if not one.endswith(f"/{KEEPING}")]
            for last in (False, True):  # first what says that something is there
                _in_threads(lambda one: self.store.delete([one]), [n for n in names if n.endswith(".json") != last])
            self.store.delete_folder(name)
        elif found is not None:
            self.store.delete([name])
        if path.is_dir():
            (path / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def manifest(self, stage_folder: str) -> dict[str, Any] | None:
        """The manifest of a stage's folder in the store, None without one. UserError if it is damaged."""
        content = self.store.read(f"{stage_folder}/{MANIFEST}")
        if content is None:
            return None
        try:
            manifest = json.loads(content)
            return dict(manifest) | {"files": list(manifest["files"])}
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{self.store.uri}/{stage_folder}/{MANIFEST} is damaged; run again with --from "
                f"{stage_folder.rpartition('/')[2].partition('-')[0]}"
            ) from None

    def _bring_file(self, name: str, entry: Entry, checksum: str | None) -> None:
        path = self.local / name
        if self._same(name, entry):
            return
        with self._locked(name):
            if not self._wanted(name, entry):  # another process has brought it, or this node has a younger one
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{HIDDEN}brought-{path.name}")  # a killed process's is overwritten
            try:
                entry = self._fetch(name, temporary, entry)
            except FileNotFoundError:  # deleted since it was listed
                return
            if checksum is not None and _sha256(temporary) != checksum:
                temporary.unlink()
                raise UserError(
                    f"{self.store.uri}/{name} is not what the manifest of its stage says; make the stage anew with "
                    f"--from {name.split('/')[1].partition('-')[0]}"
                )
            _stamp(temporary, name, entry, unsure=time.time_ns() - entry.time_ns < YOUNG_NS)
            os.replace(temporary, path)

    def _fetch(self, name: str, target: Path, entry: Entry) -> Entry:
        """Copy a file from the store; what it was. Again if it was replaced meanwhile: large ones come in blocks."""
        while True:
            self.store.fetch(name, target)
            if entry.size <= BLOCK and target.stat().st_size == entry.size:
                return entry
            now = self.store.find(name)
            if now == entry and target.stat().st_size == entry.size:
                return entry
            if not isinstance(now, Entry):
                raise FileNotFoundError(name)
            entry = now

    def _send_file(self, name: str, source: Path | None = None) -> None:
        path = source or self.local / name
        before = path.stat()
        entry = self.store.put(path, name)
        after = path.stat()
        if source is None and (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size):
            _stamp(path, name, entry)

    def _forget_missing(self, name: str, entries: Mapping[str, Entry], sums: Mapping[str, str] | None) -> None:
        """Remove clean files that the store has no longer (asked once more: another process may just have sent one),
        and from a finished stage's folder whatever an attempt of this node has left there."""
        path = self.local / name
        for child in [path] if path.is_file() else list(_files(path)):
            one = child.relative_to(self.local).as_posix()
            if one in entries or (sums is not None and one in sums):
                continue
            if (sums is not None and path.is_dir()) or (self._is_clean(one) and self.store.find(one) is None):
                child.unlink(missing_ok=True)

    def _is_clean(self, name: str) -> bool:
        try:
            return (self.local / name).stat().st_mtime_ns % MILLISECOND_NS == _mark(name)
        except FileNotFoundError:
            return False

    def _same(self, name: str, entry: Entry) -> bool:
        """Whether the local file is the store's."""
        try:
            found = (self.local / name).stat()
        except FileNotFoundError:
            return False
        return found.st_size == entry.size and found.st_mtime_ns == entry.time_ns + _mark(name)

    def _wanted(self, name: str, entry: Entry) -> bool:
        """Whether the local file is to be replaced by the store's."""
        path = self.local / name
        if not path.exists():
            return True
        if self._is_clean(name):
            return not self._same(name, entry)
        return path.stat().st_mtime_ns < entry.time_ns

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """One process of this node at a time; names share locks, which only makes some wait."""
        number = int(hashlib.sha256(name.encode()).hexdigest(), 16) % LOCK_FILES
        folder = self.local / LOCKS
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / str(number)).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _in_threads(call: Callable[[str], object], names: Iterable[str]) -> None:
    """`call` for each, several at once and never in the calling thread: Ctrl-C strikes the main one alone, and must not
    cut an upload short. The first error is raised."""
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="depot")
    try:
        for done in [pool.submit(call, name) for name in names]:
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _files(folder: Path) -> Iterator[Path]:
    """Finished files below a folder, in order. Another process may delete folders meanwhile, which `rglob` minds."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(HIDDEN))
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(HIDDEN) and path.is_file():
                yield path


def _stamp(path: Path, name: str, entry: Entry, *, unsure: bool = False) -> None:
    """Mark a file as the store's. unsure: it may have been replaced within the same second; it is brought again."""
    time_ns = entry.time_ns + _mark(name) - (MILLISECOND_NS if unsure else 0)
    os.utime(path, ns=(time_ns, time_ns))


def _mark(name: str) -> int:
    """Nanoseconds behind the millisecond of a clean file's time."""
    return 1 + zlib.crc32(name.encode()) % (MILLISECOND_NS - 1)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
