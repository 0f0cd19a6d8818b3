"""Files of a user that processes share."""

import os
import tempfile
from pathlib import Path

import pytest

from blm.actors.sim.descriptions import planning_description
from blm.model.errors import UserError
from blm.model.user_folder import user_folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_it_is_the_same_each_time_and_nobody_else_looks_into_it() -> None:
    place = user_folder("blm-some")
    assert place == user_folder("blm-some")
    assert place.stat().st_mode & 0o777 == 0o700


def test_a_folder_of_somebody_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(UserError, match="belongs to somebody else; set TMPDIR"):
        user_folder("blm-some")


def test_processes_share_the_descriptions_they_write_and_leave_nothing_else(tmp_path: Path) -> None:
    # Without its memory the function does what another process would.
    first = planning_description.__wrapped__("panda", "lite")
    written_ns = first.stat().st_mtime_ns
    assert planning_description.__wrapped__("panda", "lite") == first
    assert first.stat().st_mtime_ns == written_ns
    text = first.read_text()
    first.unlink()  # as whoever tidies temporary files may
    assert planning_description.__wrapped__("panda", "lite").read_text() == text
    files = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    assert files == {f"{place.relative_to(tmp_path)}" for place in (first, first.with_suffix(".srdf"))}
