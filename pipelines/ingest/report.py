"""What became of every record of a source, as a file and as a table."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from blm.pipelines.ingest.decontaminate import RULES
from blm.pipelines.ingest.parts import Part
from blm.pipelines.ingest.selection import tally
from blm.pipelines.ingest.sources import Found


def source_report(found: Found, parts: Sequence[Part], fates: np.ndarray, files: Mapping[str, int]) -> dict[str, Any]:
    """The report of one source. Every record is counted once: in train, test, rejected, duplicates or decontaminated.

    fates: of its rows, uint8 [N].
    """
    counts = tally(fates)
    reasons: Counter[str] = Counter()
    for part in parts:
        reasons.update(part.counts["reasons"])
    media = {name: sum(part.counts[name] for part in parts) for name in ("images", "videos", "frames", "bytes")}
    decontaminated = {rule: counts[f"like_test_{rule}"] for rule in RULES} | {"held_out": counts["like_held_out"]}
    return {
        "source": found.source.name,
        "path": str(found.source.path),
        "format": found.format,
        "detected": found.why,
        "pieces": len(parts),
        "records": sum(part.counts["records"] for part in parts),
        "kept": {"train": counts["train"], "test": counts["test"]},
        "rejected": sum(reasons.values()),
        "rejected_by_reason": dict(sorted(reasons.items())),
        "duplicates": {"exact": counts["exact_duplicates"], "near": counts["near_duplicates"]},
        "decontaminated": decontaminated,
        "read": media,
        "files": dict(files),
    }


def print_reports(reports: Mapping[str, Mapping[str, Any]], progress: Callable[[str], None]) -> None:
    """A line a source: what came in, what stays and why the rest does not."""
    progress(
        f"{'source':<18}{'format':<18}{'records':>9}{'train':>9}{'test':>7}{'refused':>9}{'equal':>7}{'near':>7}"
        f"{'test items':>12}{'pictures':>10}{'videos':>8}{'MB':>8}"
    )
    for name, report in reports.items():
        progress(
            f"{name:<18}{report['format']:<18}{report['records']:>9}{report['kept']['train']:>9}"
            f"{report['kept']['test']:>7}{report['rejected']:>9}{report['duplicates']['exact']:>7}"
            f"{report['duplicates']['near']:>7}{sum(report['decontaminated'].values()):>12}"
            f"{report['read']['images']:>10}{report['read']['videos']:>8}{report['read']['bytes'] / 1e6:>8.1f}"
        )
