"""What tests of stages share: the hash of what a stage left, and its work done in this process."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest


def folder_hash(folder: Path) -> str:
    """Of the names and contents of all files below it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(f.relative_to(folder)).encode() + f.read_bytes() for f in files)).hexdigest()


def work_here(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """From now on the work items of `module` are done in this process, which has imported everything, and not by
    workers, of which each takes ten seconds to load a model."""

    def map_here(items: Sequence[Any], worker: type, *, arguments: dict[str, Any], **_: Any) -> Iterator[Any]:
        return map(worker(**arguments), items) if items else iter(())

    monkeypatch.setattr(f"{module}.map_items", map_here)
