"""`blm status` and `blm presets`: what there is, read from files and quickly.

A run is shown as its files tell it, on any machine that sees them, or from the store; neither Ray nor the driver is
asked. What a running stage does is in the small file that its driver writes every few seconds (`watch.py`).
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blm.cluster import depot
from blm.model.errors import UserError
from blm.pipelines import keeping
from blm.pipelines.cli_options import ROOT_HELP
from blm.pipelines.lock import is_locked
from blm.pipelines.preset_files import presets, summary
from blm.pipelines.show import duration, size
from blm.pipelines.watch import logs_folder, status_file
from blm.pipelines.workspace import BEGUN, read_json, read_json_if_there, read_manifest

QUIET_S = 60.0
"""A driver that has written nothing for so long is taken for stopped."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `blm status`; `blm presets` has none."""
    if parser.prog.endswith("status"):
        parser.add_argument("run", nargs="?", help="name or folder of a run (default: every run under --root)")
        parser.add_argument("--root", default="runs", metavar="DIR", help=ROOT_HELP)


def main(name: str, arguments: argparse.Namespace) -> int:
    """Print the list or the table."""
    if name == "presets":
        for preset, path in presets().items():
            print(f"{preset:<8} {summary(path)}")
        return 0
    for folder in _run_folders(depot.enter(arguments.root), arguments.run):
        print(status(folder))
    return 0


def _run_folders(root: Path, run: str | None) -> list[Path]:
    """Folders of the runs asked for. UserError if there are none."""
    if run is not None and not depot.has_store() and (Path(run) / keeping.RUN).exists():
        return [Path(run)]
    known = [folder.name for folder in keeping.runs_of(root)]
    if run is not None and run not in known:
        raise UserError(f"no run {run!r} in {root}; runs there: {', '.join(known) or 'none'}")
    if not known:
        raise UserError(f"no runs in {root}; start one with `blm run --preset tiny`")
    return [root / name for name in ([run] if run is not None else known)]


def status(run_folder: Path) -> str:
    """A table of one run's stages: finished, running, begun or absent; when, how long, how much; what is running now in
    more lines.
    """
    record = keeping.bring_record(run_folder)
    busy = is_locked(run_folder)
    lines = [f"{depot.address(run_folder)} (asked {record['asked']}{', running now' if busy else ''})"]
    for name, entry in record["stages"].items():
        lines += _stage_lines(name, run_folder / entry["folder"], busy=busy)
    return "\n".join(lines)


def _stage_lines(name: str, folder: Path, *, busy: bool) -> Iterator[str]:
    """One stage's line, and what is known of it beside, if it is not finished."""
    manifest = read_manifest(folder)
    if manifest is not None:
        total = size(sum(file["bytes"] for file in manifest["files"]))
        took = duration(manifest["wall_s"])
        yield f"  {name:<10} finished {manifest['finished']}  {took:>12}  {total:>9}  {folder.name}"
        return
    if not (folder / BEGUN).exists():
        yield f"  {name:<10} not yet"
        return
    begun = read_json(folder / BEGUN)
    watched = read_json_if_there(depot.here(status_file(folder))) or {}
    running = busy and bool(watched) and "ended" not in watched and time.time() - watched["now"] < QUIET_S
    word = "running " if running else "begun   "
    attempts = f"  attempt {begun['attempts']}" if begun.get("attempts", 1) > 1 else ""
    yield f"  {name:<10} {word} {begun['begun']}  {duration(begun['wall_s']):>12}  {'':>9}  {folder.name}{attempts}"
    for line in watched_lines(watched, folder):
        yield f"  {'':<10} {line}"


def watched_lines(watched: dict[str, Any], folder: Path) -> Iterator[str]:
    """What the driver last told of an unfinished stage: progress and rate, nodes, how it ended, its last words."""
    if watched.get("of"):
        share = watched["done"] / watched["of"]
        rate = f", {watched['per_s']:.3g} a second" if watched.get("per_s") else ""
        left = f", {duration(watched['left_s'])} left" if watched.get("left_s") else ""
        yield f"{watched['done']}/{watched['of']} ({share:.0%}){rate}{left}"
    nodes = watched.get("nodes") or []
    if nodes:
        alive = [node for node in nodes if node["alive"]]
        cpus, gpus = (sum(node[what] for node in alive) for what in ("cpus", "gpus"))
        lost = f", {len(nodes) - len(alive)} lost" if len(alive) < len(nodes) else ""
        yield f"driver {watched['driver']}; {len(alive)} nodes{lost}, {cpus:g} CPUs, {gpus:g} GPUs"
        if len(nodes) > 1:
            for node in nodes:
                state = "" if node["alive"] else "  LOST"
                kinds = " ".join(node["kinds"]) or "of no kind"
                yield f"  {node['name']} {node['id']}: {node['cpus']:g} CPUs, {node['gpus']:g} GPUs, {kinds}{state}"
    if "ended" in watched:
        yield f"ended: {watched['ended']}"
        logs = logs_folder(folder) / f"attempt-{watched['attempt']}"
        yield f"logs: {depot.address(logs)}"
    for line in watched.get("lines", []):
        yield f"| {line}"
