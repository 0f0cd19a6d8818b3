"""`blm assets`: what is here is told, what is missing is fetched whole or not at all, and no network is one line."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from blm.actors.sim.descriptions import DOWNLOADED, WHEEL

BLM = str(Path(sys.executable).with_name("blm"))
NOWHERE = "http://127.0.0.1:9/archive.zip"
"""Nobody listens there."""


def call(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"MS_ASSET_DIR": str(home)}
    return subprocess.run(
        [BLM, "assets", *words], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def archive(tmp_path: Path) -> str:
    """An archive as GitHub makes them: everything in one folder with a version in its name."""
    path = tmp_path / "v0.1.1.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("ManiSkill-XArm6-0.1.1/xarm6_robotiq.urdf", "<robot name='xarm6'/>")
        file.writestr("ManiSkill-XArm6-0.1.1/meshes/base.stl", "solid")
    return path.as_uri()


def test_what_is_missing_is_fetched_whole_and_then_is_here(tmp_path: Path, archive: str) -> None:
    home = tmp_path / "assets"
    listed = call(home)
    assert listed.returncode == 0
    status = {line.split()[0]: line.split()[3] for line in listed.stdout.splitlines()[1:5]}
    assert status == {"panda": "here", "xarm6": "missing", "xarm7": "missing", "widowx_ai": "missing"}
    assert "blm assets fetch" in listed.stdout
    fetched = call(home, "fetch", "xarm6_robotiq", "--url", archive)
    assert fetched.returncode == 0, fetched.stderr
    robot = home / "data/robots/xarm6"
    assert f"xarm6: fetched, now in {robot}" in fetched.stdout
    files = {str(path.relative_to(home / "data/robots")) for path in home.rglob("*") if path.is_file()}
    assert files == {"xarm6/xarm6_robotiq.urdf", "xarm6/meshes/base.stl"}
    again = call(home, "fetch", "xarm6", "panda")
    assert again.stdout == "xarm6: already here\npanda: already here\n"


def test_robots_are_sought_where_maniskill_puts_them() -> None:
    import mani_skill

    assert mani_skill.PACKAGE_ASSET_DIR / "robots" == WHEEL
    assert mani_skill.ASSET_DIR / "robots" == DOWNLOADED


def test_no_network_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    result = call(tmp_path / "assets", "fetch", "widowx_ai", "--url", NOWHERE)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"error: widowxai: cannot be fetched from {NOWHERE}")
    assert "MS_ASSET_DIR" in result.stderr
    assert list((tmp_path / "assets").rglob("*")) == []


def test_an_archive_without_the_robot_is_told(tmp_path: Path) -> None:
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("other-1/readme.txt", "something else")
    result = call(tmp_path / "assets", "fetch", "xarm7", "--url", path.as_uri())
    assert result.returncode == 2
    assert "xarm7: the archive lacks what its description needs" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fetch", "xarm8"), "did you mean"),
        (("list", "xarm6"), "did you mean `blm assets fetch xarm6`?"),
        (("fetch", "--url", NOWHERE), "--url is one archive, but 2 are to be fetched"),
    ],
)
def test_a_mistake_is_one_line(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    result = call(tmp_path / "assets", *words)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = call(tmp_path / "file", "fetch", "xarm6", "--url", NOWHERE)
    assert result.returncode == 2
    assert f"cannot write to {tmp_path / 'file'}" in result.stderr
