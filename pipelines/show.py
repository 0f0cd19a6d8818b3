"""What a run prints: a header and a result a stage, notices of what is skipped, and the tables at the end."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blm.pipelines.evaluation.contestants import BASELINE, OURS
from blm.pipelines.stages import Stage


def duration(seconds: float) -> str:
    """12.3 s, 4 min 05 s, 2 h 03 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(count_bytes: float) -> str:
    """3.2 MB and the like."""
    for unit in ("B", "kB", "MB", "GB"):
        if count_bytes < 1000:
            return f"{count_bytes:.0f} {unit}" if unit == "B" else f"{count_bytes:.1f} {unit}"
        count_bytes /= 1000
    return f"{count_bytes:.1f} TB"


def rule(title: str) -> str:
    """A line across the terminal with a title."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    return f"\n== {title} ".ljust(width, "=")


def print_header(stage: Stage, number: int, of: int, folder: Path, *, attempt: int) -> None:
    """Announce a stage that is about to run."""
    print(rule(f"{stage.name} ({number} of {of})"))
    again = "" if attempt == 1 else f"; attempt {attempt}, going on from what is there"
    print(f"   {stage.about}\n   {folder}{again}", flush=True)


def print_result(manifest: Mapping[str, Any]) -> None:
    """Say what a stage took: time, memory and size. What it found, it has said itself."""
    total = size(sum(entry["bytes"] for entry in manifest["files"]))
    print(
        f"   done in {duration(manifest['wall_s'])}, peak memory {manifest['peak_memory_gb']:.1f} GB, "
        f"{len(manifest['files'])} files of {total}",
        flush=True,
    )


def print_skip(stage: Stage, number: int, of: int, manifest: Mapping[str, Any]) -> None:
    """Say that a stage is finished already."""
    took = duration(manifest["wall_s"])
    print(f"== {stage.name} ({number} of {of}): finished {manifest['finished']} in {took}, skipped", flush=True)


def stage_table(manifests: Mapping[str, Mapping[str, Any]]) -> str:
    """Wall time and peak memory of each stage."""
    rows = [
        f"  {name:<10}{duration(manifest['wall_s']):>14}{manifest['peak_memory_gb']:>9.1f} GB   {manifest['finished']}"
        for name, manifest in manifests.items()
    ]
    total = duration(sum(manifest["wall_s"] for manifest in manifests.values()))
    peak = max((manifest["peak_memory_gb"] for manifest in manifests.values()), default=0.0)
    head = f"  {'stage':<10}{'wall time':>14}{'peak memory':>12}   finished"
    return "\n".join([head, *rows, f"  {'all':<10}{total:>14}{peak:>9.1f} GB"])


def success_table(evaluate_folder: Path) -> str:
    """Success rate of each cell with its Wilson 95 % interval, the baseline's and random actions beside it, and what
    McNemar's test says of ours and the baseline; empty without physical results.
    """
    path = evaluate_folder / "summary.json"
    if not path.exists():
        return ""
    summary = json.loads(path.read_text())
    rows = {(row["policy"], row["cell"]): row for row in summary.get("cells", [])}
    has_baseline = any(policy == BASELINE for policy, _ in rows)
    head = f"  {'cell':<26}{'success':>9}{'95 % interval':>19}{'episodes':>12}"
    lines = [head + (f"{'diffusion':>11}{'95 % interval':>19}" if has_baseline else "") + f"{'random':>10}"]
    for (policy, cell), row in rows.items():
        if policy != OURS:
            continue
        line = f"  {cell:<26}{row['rate']:>9.0%}{_interval(row):>19}{_count(row):>12}"
        if has_baseline:
            other = rows.get((BASELINE, cell))
            line += f"{other['rate']:>11.0%}{_interval(other):>19}" if other else f"{'-':>11}{'-':>19}"
        random = rows.get(("random", cell))
        lines.append(line + (f"{random['rate']:>10.0%}" if random else f"{'-':>10}"))
    for row in summary.get("compared", []):
        if row["policy"] == BASELINE and row["cell"] == "all":
            lines.append(
                f"  {row['pairs']} scenes: {row['only_first']} done by ours alone, {row['only_second']} by diffusion"
                f" policy alone, McNemar's exact p = {row['p']:.2g}"
            )
    if len(lines) == 1:
        return ""
    return "\n".join([*lines, *([f"  simulated by: {summary['backend']}"] if summary.get("backend") else [])])


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['low']:.0%} to {row['high']:.0%}"


def _count(row: Mapping[str, Any]) -> str:
    return f"{row['successes']} of {row['episodes']}"
