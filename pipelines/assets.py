"""`blm assets`: the robots' official descriptions, which of them are here, and fetching the others.

Everything runs without them, on our own light geometry. They are ManiSkill's assets, so its own downloader fetches
them, into the folder where it looks for them itself (MS_ASSET_DIR, or ~/.maniskill).

blm assets                  what is here
blm assets fetch            fetch what is missing
blm assets fetch xarm6      of one robot
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from blm.model.errors import UserError

ARCHIVES = {"xarm6": "xarm6", "xarm7": "xarm6", "widowx_ai": "widowxai"}
"""Which of ManiSkill's archives a robot needs. The Panda comes with ManiSkill; the xArm 7's gripper is the xArm 6's."""
OTHER_NAMES = {"xarm6_robotiq": "xarm6", "xarm7_robotiq": "xarm7", "widowxai": "widowx_ai"}
"""What ManiSkill calls the robots."""
CONNECT_S = 20
"""How long the other side may be silent."""
DOWNLOAD_S = 600
"""How long a download may take."""

_DOWNLOADER = """
import socket, sys
socket.setdefaulttimeout({connect_s})
from mani_skill.utils.assets import DATA_SOURCES
from mani_skill.utils.download_asset import download
source = DATA_SOURCES[sys.argv[1]]
source.url = sys.argv[2] or source.url
print("from", source.url, flush=True)
download(source, verbose=False)
"""
"""Runs ManiSkill's downloader, in a process that can be ended."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `blm assets`."""
    parser.add_argument("what", nargs="?", choices=("list", "fetch"), default="list", help="default: list")
    parser.add_argument("names", nargs="*", metavar="ROBOT", help="robots to fetch (default: all that are missing)")
    parser.add_argument(
        "--url", default="", metavar="URL", help="take the archive of one robot from here, a mirror or file://"
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "ManiSkill's downloader puts them into $MS_ASSET_DIR/data/robots (default: ~/.maniskill/data/robots)."
    )


def main(name: str, arguments: argparse.Namespace) -> int:
    """List or fetch."""
    if arguments.what == "list":
        if arguments.names:
            raise UserError(f"`blm assets list` takes no names; did you mean `blm assets fetch {arguments.names[0]}`?")
        print(listing())
        return 0
    return fetch(arguments.names, url=arguments.url)


def listing() -> str:
    """Every robot: whether its official description is here, and where."""
    from blm.actors.sim.descriptions import has_official, official_sources
    from blm.model.embodiments import EMBODIMENTS

    lines = [f"{'robot':<11}{'lite':<10}{'official':<10}where"]
    for robot in EMBODIMENTS:
        missing = [path for path in official_sources(robot) if not path.is_file()]
        where = missing[0] if missing else official_sources(robot)[0]
        lines.append(f"{robot:<11}{'built in':<10}{'here' if has_official(robot) else 'missing':<10}{where}")
    if any(not has_official(robot) for robot in EMBODIMENTS):
        lines.append("fetch what is missing with `blm assets fetch`; geometry `lite` needs none of it")
    return "\n".join(lines)


def fetch(names: list[str], *, url: str = "") -> int:
    """Fetch robots by name, or all that are missing. UserError for an unknown one, or if it cannot be had."""
    from blm.model.embodiments import EMBODIMENTS, get_embodiment

    robots = [get_embodiment(OTHER_NAMES.get(name, name)).name for name in names] or list(EMBODIMENTS)
    from blm.actors.sim.descriptions import DOWNLOADED, has_official

    wanted: list[str] = []
    for robot in dict.fromkeys(robots):
        if has_official(robot):
            print(f"{robot}: already here")
        elif ARCHIVES.get(robot) is None:
            raise UserError(
                f"{robot}: its description belongs to the mani_skill package, which lacks it; reinstall that"
            )
        elif ARCHIVES[robot] not in wanted:
            wanted.append(ARCHIVES[robot])
    if url and len(wanted) > 1:
        raise UserError(
            f"--url is one archive, but {len(wanted)} are to be fetched ({', '.join(wanted)}); name one robot"
        )
    for archive in wanted:
        download(archive, DOWNLOADED / archive, url=url)
    for robot in dict.fromkeys(robots):
        if ARCHIVES.get(robot) in wanted:
            if not has_official(robot):
                raise UserError(f"{robot}: the archive lacks what its description needs; see `blm assets list`")
            print(f"{robot}: fetched, now in {DOWNLOADED / ARCHIVES[robot]}")
    return 0


def download(archive: str, target: Path, *, url: str = "") -> None:
    """Let ManiSkill's downloader fetch into a folder beside the target, then put it there whole. UserError if not."""
    home = target.parents[2]  # of <home>/data/robots/<archive>
    try:
        home.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".tmp-assets-", dir=home))
    except OSError as error:
        raise UserError(
            f"cannot write to {home} ({error.strerror}); set MS_ASSET_DIR to a folder you may write to"
        ) from error
    try:
        print(f"{archive}: fetching", flush=True)
        _run_downloader(archive, staging, url)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            shutil.rmtree(target)
        os.replace(staging / "data/robots" / archive, target)
    except OSError as error:
        raise UserError(
            f"cannot put {archive} into {target} ({error}); is the disk full, the folder read-only?"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _run_downloader(archive: str, staging: Path, url: str) -> None:
    command = [sys.executable, "-c", _DOWNLOADER.format(connect_s=CONNECT_S), archive, url]
    environment = os.environ | {"MS_ASSET_DIR": str(staging), "TMPDIR": str(staging)}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=DOWNLOAD_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{archive}: not there after {DOWNLOAD_S} s; try again, or give a mirror with --url") from error
    if done.returncode:
        source = next((line for line in done.stdout.splitlines() if line.startswith("from ")), "")
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(
            f"{archive}: cannot be fetched {source} ({reason}); check the network, give a mirror with --url, or set"
            " MS_ASSET_DIR to a folder that has it. Geometry 'lite' needs nothing of this"
        )
