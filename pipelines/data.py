"""`blm data`: what is in a dataset, whether it is sound, what it looks like, and a copy for others.

blm data inspect DIR                check everything; with a page of charts and videos
blm data sheet DIR                  one picture: first, middle and last frame of every cell
blm data replay DIR                 execute every kept demonstration again and count what succeeds
blm data export-maniskill DIR OUT   ManiSkill's own trajectory.h5 and trajectory.json of every cell
"""

import argparse
import json
from pathlib import Path

from blm.model.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `blm data`."""
    from blm.pipelines.inspection.findings import CHECKS

    commands = parser.add_subparsers(dest="what", required=True, metavar="inspect|sheet|replay|export-maniskill")
    checks = "\n".join(f"  {name:<11} {about}" for name, about in CHECKS.items())
    inspect = commands.add_parser(
        "inspect",
        help="check everything; with a page of charts and videos",
        description="Check a LeRobot dataset (any features), collected episodes, or all of them below a folder.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"checks:\n{checks}\n\nexit code: 0 sound, or with warnings only; 1 errors found; 2 nothing to inspect",
    )
    inspect.add_argument("folder", type=Path, metavar="DIR", help="a dataset, a stage's folder or a run's folder")
    inspect.add_argument("--html", type=Path, metavar="FILE", help="where the page goes (default: inspect-<DIR>.html)")
    inspect.add_argument("--no-gallery", action="store_true", help="no page")
    inspect.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    inspect.add_argument(
        "--frames",
        default="1000",
        metavar="N|all",
        help="pictures of a camera to decode, evenly spread (default: 1000)",
    )
    inspect.add_argument(
        "--videos", type=int, default=3, metavar="N", help="videos of each cell on the page (default: 3)"
    )
    sheet = commands.add_parser(
        "sheet",
        help="one picture: first, middle and last frame of every cell",
        description="Draw the first, middle and last frame of the first episode of every cell below a folder.",
    )
    sheet.add_argument("folder", type=Path, metavar="DIR", help="a folder with collected episodes, or a run's folder")
    sheet.add_argument("--out", type=Path, default=Path("sheet.png"), metavar="FILE", help="default: sheet.png")
    sheet.add_argument("--cameras", nargs="+", default=["front", "side"], metavar="NAME", help="default: front side")
    sheet.add_argument("--px", type=int, default=160, metavar="N", help="side of each picture (default: 160)")

    replay = commands.add_parser(
        "replay",
        help="execute every kept demonstration again and count what succeeds",
        description="Execute every collected demonstration below a folder again, from its seed and its first state.",
        epilog="exit code: 0 all end in success; 1 some do not; 2 nothing to replay",
    )
    replay.add_argument("folder", type=Path, metavar="DIR", help="a folder with collected episodes, or a run's folder")
    replay.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default: 2)")
    replay.add_argument("--address", metavar="ADDRESS", help="join this Ray cluster instead of starting one")
    export = commands.add_parser(
        "export-maniskill",
        help="ManiSkill's own trajectory.h5 and trajectory.json of every cell",
        description="Write the collected demonstrations below a folder in ManiSkill's format, for its own baselines.",
    )
    export.add_argument("folder", type=Path, metavar="DIR", help="a folder with collected episodes, or a run's folder")
    export.add_argument("out", type=Path, metavar="OUT", help="where to write, a folder a cell")


def main(name: str, arguments: argparse.Namespace) -> int:
    """Do what was asked."""
    return {"inspect": inspect, "sheet": sheet, "replay": replay, "export-maniskill": export}[arguments.what](arguments)


def inspect(arguments: argparse.Namespace) -> int:
    """Print what was found and write the page. 1 if there are errors."""
    n_samples = _samples(arguments.frames)
    if arguments.videos < 0:
        raise UserError(f"--videos is {arguments.videos}; give 0 or more")
    from blm.pipelines.inspection.run import find_sources, inspect_source, say_on_stderr

    inspections = []
    for root in find_sources(arguments.folder):
        one = inspect_source(root, n_samples=n_samples, say=say_on_stderr)
        print(one.text(), flush=True)
        inspections.append(one)
    if len(inspections) > 1:
        faulty = sum(bool(one.errors) for one in inspections)
        print(f"\n{len(inspections)} sources inspected, errors in {faulty or 'none'}")
    page: Path | None = None
    if not arguments.no_gallery:
        from blm.pipelines.inspection.gallery import write_gallery

        page = arguments.html or Path(f"inspect-{arguments.folder.resolve().name}.html")
        write_gallery(page, inspections, videos_per_cell=arguments.videos, say=say_on_stderr)
        print(f"\nto look at: {page} ({page.stat().st_size / 1e6:.1f} MB)")
    errors = sum(one.errors for one in inspections)
    if arguments.json:
        result = {"ok": not errors, "errors": errors, "page": str(page) if page else None}
        print(json.dumps(result | {"sources": [one.to_json() for one in inspections]}))
    return 1 if errors else 0


def _samples(text: str) -> int:
    """--frames as a number; 0 is all."""
    if text == "all":
        return 0
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"--frames is {text}; give a number from 1 on, or all")
    return int(text)


def sheet(arguments: argparse.Namespace) -> int:
    """Write the contact sheet."""
    from blm.pipelines.inspection.contact_sheet import contact_sheet

    made = contact_sheet(arguments.folder, arguments.out, cameras=arguments.cameras, picture_px=arguments.px)
    print(f"{arguments.out}: {made} cells")
    return 0


def replay(arguments: argparse.Namespace) -> int:
    """Replay and print a table. 1 if a demonstration does not end in success."""
    from blm.cluster import ray_runtime
    from blm.pipelines.replay import replay_folder

    if arguments.workers < 1:
        raise UserError(f"--workers is {arguments.workers}; give 1 or more")
    with ray_runtime.connected(num_cpus=arguments.workers, address=arguments.address):
        result = replay_folder(arguments.folder, arguments.workers)
    print(json.dumps(result))
    return 0 if result["success"] == result["episodes"] else 1


def export(arguments: argparse.Namespace) -> int:
    """Write ManiSkill's files."""
    from blm.pipelines.export_maniskill import export_maniskill

    print(json.dumps(export_maniskill(_collected(arguments.folder), arguments.out)))
    return 0


def _collected(folder: Path) -> Path:
    """The one folder at or below `folder` in which demonstrations were collected. UserError if it is not clear."""
    from blm.actors.sim.episode import collected_folders

    found = collected_folders(folder)
    if len(found) == 1:
        return found[0]
    raise UserError(f"{folder} holds several collections; name one: {', '.join(map(str, found))}")
