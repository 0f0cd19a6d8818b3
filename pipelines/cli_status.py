"""`blm status` and `blm presets`: what there is, read from files and quickly."""

import argparse
from pathlib import Path

from blm.model.errors import UserError
from blm.pipelines.lock import is_locked
from blm.pipelines.preset_files import presets, summary
from blm.pipelines.show import duration, size
from blm.pipelines.workspace import BEGUN, read_json, read_manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `blm status`; `blm presets` has none."""
    if parser.prog.endswith("status"):
        parser.add_argument("run", nargs="?", help="name or folder of a run (default: every run under --root)")
        parser.add_argument(
            "--root", type=Path, default=Path("runs"), metavar="DIR", help="where runs live (default: runs)"
        )


def main(name: str, arguments: argparse.Namespace) -> int:
    """Print the list or the table."""
    if name == "presets":
        for preset, path in presets().items():
            print(f"{preset:<8} {summary(path)}")
        return 0
    for folder in _run_folders(arguments.root, arguments.run):
        print(status(folder))
    return 0


def _run_folders(root: Path, run: str | None) -> list[Path]:
    """Folders of the runs asked for. UserError if there are none."""
    if run is None:
        found = sorted(path.parent for path in root.glob("*/run.json"))
        if not found:
            raise UserError(f"no runs in {root}; start one with `blm run --preset tiny`")
        return found
    for folder in (root / run, Path(run)):
        if (folder / "run.json").exists():
            return [folder]
    known = ", ".join(sorted(path.parent.name for path in root.glob("*/run.json"))) or "none"
    raise UserError(f"no run {run!r} in {root}; runs there: {known}")


def status(run_folder: Path) -> str:
    """A table of one run's stages: finished, begun or absent, when, how long, how much."""
    record = read_json(run_folder / "run.json")
    busy = ", running now" if is_locked(run_folder) else ""
    lines = [f"{run_folder} (asked {record['asked']}{busy})"]
    for name, entry in record["stages"].items():
        folder = run_folder / entry["folder"]
        manifest = read_manifest(folder)
        if manifest is not None:
            total = size(sum(file["bytes"] for file in manifest["files"]))
            text = f"finished {manifest['finished']}  {duration(manifest['wall_s']):>12}  {total:>9}  {folder.name}"
        elif (folder / BEGUN).exists():
            begun = read_json(folder / BEGUN)
            text = f"begun    {begun['begun']}  {duration(begun['wall_s']):>12}  {'':>9}  {folder.name}"
        else:
            text = "not yet"
        lines.append(f"  {name:<10} {text}")
    return "\n".join(lines)
