"""Where a run is kept for good when nodes share no disk: S3, or any other filesystem that pyarrow reaches by a URI.

Nothing here knows of runs; it moves whole files, patiently. A network that fails is tried again for `patience_s`, then
there is one line that says what to do; a refusal (credentials, a missing bucket) is said at once.

An object appears in an object store when its upload ends. pyarrow ends it also when a stream is closed because of an
error, which would leave the beginning of a file under the name of the whole: such a stream is never closed here, and
what it sent is no object. On other filesystems a file is written under a temporary name and renamed. Either way its
size is compared afterwards.
"""

import ctypes
import errno
import os
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from blm.cluster.filesystems import open_filesystem
from blm.model.errors import UserError, first_line

BLOCK = 16 * 2**20  # what is read and written at once, and what is one request of a small file
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
HIDDEN = ".tmp-"
"""How the names of files begin that are not finished."""
LOCAL_FAULTS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENAMETOOLONG}
)
"""What is wrong with a disk, and patience does not change. Answers of S3 have no number."""
REFUSED = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|INVALID_CLIENT_TOKEN|EXPIRED_TOKEN|MISSING_AUTH"
    r"|NOT_SIGNED_UP|UNRECOGNIZED_CLIENT|HTTP status 40[13]|InvalidAccessKeyId|ExpiredToken|PERMISSION_DENIED"
)
"""Words of an answer that no patience changes."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A file in a store."""

    size: int
    """Bytes."""
    time_ns: int
    """When it was written, by the store's clock, in milliseconds as nanoseconds; S3 tells whole seconds."""


class Store:
    """Files below one address; names are relative to it, with slashes. Every method raises UserError when the store
    cannot be used, and leaves what is wrong with a local disk as the OSError it is."""

    def __init__(self, uri: str, *, patience_s: float) -> None:
        self.uri = uri.rstrip("/")
        self.patience_s = patience_s
        self._filesystem, self._base = open_filesystem(self.uri)
        self._objects = self._filesystem.type_name in ("s3", "gcs", "abfs")  # a file appears whole, when it is closed

    def find(self, name: str, *, patience_s: float | None = None) -> Entry | Literal["folder"] | None:
        """The file of a name, whether it is a folder, or None."""
        from pyarrow.fs import FileType

        info = self._try(lambda: self._filesystem.get_file_info(self._path(name)), patience_s)
        if info.type == FileType.File:
            return _entry(info)
        return "folder" if info.type == FileType.Directory else None

    def folders(self, name: str) -> list[str]:
        """The names, relative to the store, of the folders directly below one, in order."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self._path(name), recursive=False, allow_not_found=True)
        infos = self._try(lambda: self._filesystem.get_file_info(selector))
        return sorted(info.path[len(self._base) + 1 :] for info in infos if info.type == FileType.Directory)

    def list(self, name: str) -> dict[str, Entry]:
        """Every finished file below a folder, by its name relative to the store; empty if there is none."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self._path(name), recursive=True, allow_not_found=True)
        infos = self._try(lambda: self._filesystem.get_file_info(selector))
        skip = len(self._base) + 1
        return {
            info.path[skip:]: _entry(info)
            for info in infos
            if info.type == FileType.File and not info.base_name.startswith(HIDDEN)
        }

    def read(self, name: str) -> bytes | None:
        """The content of a small file, or None without it."""

        def call() -> bytes:
            with self._filesystem.open_input_file(self._path(name)) as stream:
                content: bytes = stream.read()
            return content

        try:
            return self._try(call)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file to a local path. FileNotFoundError if the store has none."""

        def call() -> None:
            with self._filesystem.open_input_file(self._path(name)) as stream, target.open("wb") as file:
                size, left = stream.size(), stream.size()
                while left and (block := stream.read(min(BLOCK, left))):
                    file.write(block)
                    left -= len(block)
            if left:
                raise OSError(f"{name} ended after {size - left} of {size} bytes")

        self._try(call)

    def put(self, source: Path, name: str) -> Entry:
        """Copy a local file to the store. It appears there whole; what had the name before stays until then."""
        return self._try(lambda: self._put(name, source))

    def write(self, content: bytes, name: str) -> Entry:
        """Make a small file in the store."""
        return self._try(lambda: self._put(name, content))

    def delete(self, names: Iterable[str]) -> None:
        """Delete files; those that are not there do not matter."""
        for name in names:
            try:
                self._try(partial(self._filesystem.delete_file, self._path(name)))
            except FileNotFoundError:
                continue

    def delete_folder(self, name: str) -> None:
        """Delete everything below a folder, in no particular order."""
        try:
            self._try(lambda: self._filesystem.delete_dir(self._path(name)))
        except FileNotFoundError:
            return

    def _path(self, name: str) -> str:
        return str(PurePosixPath(self._base, name))

    def _put(self, name: str, source: Path | bytes) -> Entry:
        path = self._path(name)
        if self._objects:
            sent = self._send(source, path)
        else:
            parent, _, base = path.rpartition("/")
            temporary = f"{parent}/{HIDDEN}{os.getpid()}-{random.getrandbits(32):08x}-{base}"
            self._filesystem.create_dir(parent, recursive=True)
            sent = self._send(source, temporary)
            self._filesystem.move(temporary, path)
        entry = _entry(self._filesystem.get_file_info(path))
        if entry.size != sent:
            raise OSError(f"{name} has {entry.size} bytes in the store, it was sent with {sent}")
        return entry

    def _send(self, source: Path | bytes, path: str) -> int:
        """Write to a path of the filesystem; how many bytes. On an error what was sent never becomes an object."""
        blocks = _blocks(source)
        first = next(blocks, b"")  # a file of one block is read before anything is begun
        sent = len(first)
        stream = self._filesystem.open_output_stream(path)
        try:
            stream.write(first)
            for block in blocks:
                stream.write(block)
                sent += len(block)
            stream.close()
        except BaseException:
            if self._objects:  # pyarrow cannot give an upload up: closing it, also on the way out, would finish it
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))
            raise
        return sent

    def _try(self, call: Callable[[], T], patience_s: float | None = None) -> T:
        """`call()`, again and again with growing pauses as long as the network or the store fails."""
        began_s, pause_s = time.monotonic(), FIRST_PAUSE_S
        patience_s = self.patience_s if patience_s is None else patience_s
        while True:
            try:
                return call()
            except (FileNotFoundError, NotADirectoryError):
                raise
            except OSError as error:
                if error.errno in LOCAL_FAULTS:
                    raise
                if (refusal := self._refusal(str(error))) is not None:
                    raise UserError(refusal) from error
                silent_s = time.monotonic() - began_s
                if silent_s + pause_s > patience_s:
                    raise UserError(
                        f"the store {self.uri} has not answered for {silent_s:.0f} s ({first_line(error)}); check the "
                        "network and AWS_ENDPOINT_URL, then give the same command again: what is finished is kept"
                    ) from error
            time.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _refusal(self, text: str) -> str | None:
        """What to tell a person whom the store refuses, None if it is no refusal."""
        if "NO_SUCH_BUCKET" in text:
            return f"the store {self.uri} has no such bucket; make it, or correct --root"
        if REFUSED.search(text):
            return (
                f"the store {self.uri} refuses these credentials ({first_line(text)}); set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY to a key that may read, list, write and delete there"
            )
        return None


def _entry(info: Any) -> Entry:
    """What a store says of a file. OSError if it says that there is none, as after an upload that was lost."""
    if info.size is None:
        raise OSError(f"{info.path} is not in the store")
    return Entry(size=info.size, time_ns=(info.mtime_ns or 0) // 1_000_000 * 1_000_000)


def _blocks(source: Path | bytes) -> Iterator[bytes]:
    """The content in blocks. OSError if a file grows shorter or longer meanwhile."""
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file:
        left = os.fstat(file.fileno()).st_size
        while block := file.read(BLOCK):
            left -= len(block)
            yield block
        if left:
            raise OSError(f"{source} has changed while it was kept")
