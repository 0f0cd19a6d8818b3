"""Finding the files that records name, and none but those inside the media folder."""

import os
import stat
from collections.abc import Iterator
from functools import lru_cache

from blm.pipelines.datasets.readers.record import Fault, MediaRef


def find(ref: MediaRef, root: str, folder: str) -> tuple[str, int]:
    """The real path of a reference, and its size in bytes: looked for beside the record's file, then under the root.

    Fault `media_outside_root` if every candidate leads out of the root (by an absolute path, by `..`, by a symbolic
    link), `media_missing` if there is no such file.
    """
    inside = False
    for candidate in _candidates(ref, root, folder):
        try:
            path = _real_path(candidate)
            if not _within(path, real(root)):
                continue
            inside = True
            found = os.stat(path, follow_symlinks=False)
        except (OSError, ValueError):  # absent, name too long, loop of links, NUL, half a surrogate pair
            inside = inside or "\0" in candidate
            continue
        if stat.S_ISREG(found.st_mode):
            return path, found.st_size
    if inside:
        raise Fault("media_missing", f"no file {ref.paths[0]} under {root}")
    raise Fault("media_outside_root", f"{ref.paths[0]} is not under {root}")


def _candidates(ref: MediaRef, root: str, folder: str) -> Iterator[str]:
    for path in ref.paths:
        if path[1:3] == ":/":  # a drive of Windows
            continue
        for base in dict.fromkeys((folder or root, root)):
            yield os.path.join(base, path)


def _real_path(path: str) -> str:
    """As `os.path.realpath`; folders are looked up once a process, since pictures share theirs."""
    folder, name = os.path.split(path)
    if name in ("", ".", ".."):
        return os.path.realpath(path)
    found = os.path.join(real(folder), name)
    return os.path.realpath(found) if os.path.islink(found) else found


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root if root.endswith(os.sep) else root + os.sep)


@lru_cache(maxsize=16_384)
def real(root: str) -> str:
    """A folder's real path, looked up once a process."""
    return os.path.realpath(root)


def read_file(path: str) -> bytes:
    """A file's bytes. Fault if it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except OSError as error:
        raise Fault("media_missing", f"{path}: {error.strerror}") from error
