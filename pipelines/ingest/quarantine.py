"""Records that were refused: where each stood, why, and what it looked like; and when there are too many.

`quarantine/<source>/<piece>.jsonl`, one object a line: `where`, `reason`, `detail`, and a shortened copy of the record.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blm.cluster import depot
from blm.model.errors import UserError
from blm.pipelines.datasets.readers.record import REASONS, Record, Rejected
from blm.pipelines.workspace import write_text

MOST_LINES = 1000
"""Refused records of one piece of work that are written down; all are counted."""
MOST_TEXT = 200
"""Characters of each text in a copy."""
MOST_ITEMS = 6
"""Turns and media in a copy."""


class Quarantine:
    """The refused records of one piece of work."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self._lines: list[str] = []

    def add(self, refused: Rejected, record: Record | None = None) -> None:
        """Count it, and remember it unless there are very many. record: what it was, as far as it could be read."""
        self.reasons[refused.reason] += 1
        if len(self._lines) < MOST_LINES:
            shown = shortened(record) if record else refused.record
            line = {"where": refused.where, "reason": refused.reason, "detail": refused.detail, "record": shown}
            self._lines.append(json.dumps(line, ensure_ascii=True))

    def write(self, path: Path) -> None:
        """Write the file whole, or remove an old one if nothing was refused."""
        if not self._lines:
            depot.drop(path)
            return
        write_text(path, "\n".join(self._lines) + "\n")
        depot.keep(path)


def shortened(record: Record) -> dict[str, Any]:
    """What a person needs to recognise a record: the beginnings of its turns and the names of its media."""
    media = [*record.images, *record.videos][:MOST_ITEMS]
    return {
        "id": record.id,
        "messages": [
            {"role": m["role"], "text": m["text"][:MOST_TEXT]} for m in record.messages[:MOST_ITEMS]
        ],
        "media": [one.paths[0][:MOST_TEXT] if one.paths else "(in the record)" for one in media],
    }  # fmt: skip


def refuse_if_too_many(source: str, records: int, reasons: Mapping[str, int], most_share: float, folder: Path) -> None:
    """UserError if more than a share of a source's records were refused, with the commonest reasons."""
    refused = sum(reasons.values())
    if refused > most_share * records:
        raise UserError(
            f"source {source}: {refused} of {records} records were refused, more than max_rejected_share"
            f" {most_share:g}: {top_reasons(reasons)}; look into {folder}, mend the source or its options"
            " (media_root, format), or raise max_rejected_share"
        )


def top_reasons(reasons: Mapping[str, int], most: int = 3) -> str:
    """`412 media_missing (a file that does not exist), 3 role_order (...)`."""
    ordered: Sequence[tuple[str, int]] = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{n} {reason} ({REASONS.get(reason, 'no words for it')})" for reason, n in ordered[:most])
