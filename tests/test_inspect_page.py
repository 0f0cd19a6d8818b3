"""`blm data` as a person meets it: exit codes, the page with its videos, the contact sheet."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from small_damage import edit_picture
from small_demonstrations import CELLS, collect_sways, render_sways

from blm.model.errors import UserError
from blm.pipelines.cli import main
from blm.pipelines.inspection.contact_sheet import contact_sheet
from blm.pipelines.render import RenderConfig

pytestmark = pytest.mark.sim


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as collect leaves it, with five episodes of two cells."""
    return collect_sways(tmp_path_factory.mktemp("collect"))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, collected: Path) -> Path:
    """A dataset as render leaves it."""
    return render_sways(tmp_path_factory.mktemp("render") / "panda", collected, RenderConfig(image_format="jpeg"))


def test_the_command_writes_a_page_with_videos_and_ends_in_json(
    clean: Path, collected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(collected, tmp_path / "run/collect-1")
    shutil.copytree(clean, tmp_path / "run/render-1/lerobot/panda")
    assert main(["data", "inspect", "run", "--json", "--videos", "1"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["ok"], told["errors"], told["page"]) == (True, 0, "inspect-run.html")
    assert [source["episodes"] for source in told["sources"]] == [10, 10]
    page = (tmp_path / "inspect-run.html").read_text()
    assert page.count("src='data:video/mp4;base64,") == 4  # two cells, drawn from states and stored
    assert page.count("poster='data:image/jpeg;base64,") == 4
    assert "http" not in page.replace("http://www.w3.org", "")
    for cell in CELLS:
        assert f"<h3>{cell}</h3>" in page


def test_errors_are_exit_code_1_and_the_page_shows_the_episode(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(clean, tmp_path / "panda"))
    edit_picture(root, 25, lambda b: b[:400])
    page = tmp_path / "page.html"
    assert main(["data", "inspect", str(root), "--html", str(page), "--videos", "1"]) == 1
    out = capsys.readouterr().out
    assert "ERROR  pictures    front: is cut short: episode 1 frame 4" in out
    assert "1 kind of errors" in out
    assert "<b class='bad'>pictures</b> · episode 1" in page.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspect", "absent"], "absent is not a folder"),
        (["inspect", "."], "holds neither a LeRobot dataset"),
        (["inspect", ".", "--frames", "many"], "--frames is many"),
        (["sheet", "."], "holds no collected episodes"),
        (["look", "."], "invalid choice: 'look'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_the_contact_sheet_shows_three_moments_of_every_cell(collected: Path, tmp_path: Path) -> None:
    assert contact_sheet(collected, tmp_path / "sheet.png", picture_px=64) == 2
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size[0] > 6 * 64
        assert len(image.getcolors(1 << 20)) > 50
    with pytest.raises(UserError, match="unknown camera 'top'"):
        contact_sheet(collected, tmp_path / "sheet.png", cameras=("top",))
