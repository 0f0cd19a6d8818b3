"""LLaMA-Factory's `dataset_info.json` beside a file: what its columns and roles are called.

{"my_corpus": {"file_name": "train.json", "formatting": "sharegpt",
               "columns": {"messages": "talk", "images": "pics"}, "tags": {"role_tag": "who", "content_tag": "says"}}}
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from blm.pipelines.datasets.readers.json_files import MOST_RECORD_BYTES, parse
from blm.pipelines.datasets.readers.record import Fault, Options

NAME = "dataset_info.json"


def options_of(file: Path, given: Options) -> Options:
    """The options of a file: what a person said, or else what stands beside it."""
    if given.columns or given.tags:
        return given
    for entry in _entries(file.parent / NAME):
        if entry.get("file_name") == file.name:
            return replace(given, columns=_words(entry.get("columns")), tags=_words(entry.get("tags")))
    return given


@lru_cache(maxsize=256)
def _entries(path: Path) -> tuple[dict[str, Any], ...]:
    """The data sets that a file registers; none if it is another project's file of that name."""
    try:
        if path.stat().st_size > MOST_RECORD_BYTES:
            return ()
        registered = parse(path.read_bytes())
    except (OSError, Fault):
        return ()
    entries = registered.values() if isinstance(registered, dict) else ()
    return tuple(entry for entry in entries if isinstance(entry, dict))


def _words(value: Any) -> dict[str, str]:
    given = value if isinstance(value, dict) else {}
    return {key: name for key, name in given.items() if isinstance(key, str) and isinstance(name, str)}
