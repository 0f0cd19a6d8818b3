"""The report: one page that needs nothing else, whole or with parts missing; its charts and the paper's tables."""

import json
import math
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import report_inputs

from blm.pipelines.charts import Line, Rate, line_chart, log_ticks, number, rate_chart, ticks
from blm.pipelines.paper_tables import DIGITAL, PHYSICAL, ROBOTS, TASKS, paper_rate
from blm.pipelines.report import ReportConfig, report
from blm.pipelines.workspace import StageContext

VOID = {"meta", "link", "br", "hr", "img", "input", "circle", "line", "path", "polyline", "i"}

Context = Callable[..., StageContext]


class Page(HTMLParser):
    """Collects what a page refers to, its text, and tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.external: list[str] = []
        self.words = ""
        self.faults: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            if name in ("href", "src", "action", "poster") and value:
                if value.startswith("#"):
                    self.links.add(value[1:])
                elif not value.startswith("data:"):
                    self.external.append(value)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data: str) -> None:
        self.words += data


def make(context: StageContext, config: ReportConfig | None = None) -> tuple[str, Page]:
    summary = report(config or ReportConfig(), context)
    text = (context.out / summary["page"]).read_text()
    return text, Page(text)


def test_a_whole_run_gives_every_part_on_one_self_contained_page(tmp_path: Path, stage_context: Context) -> None:
    text, page = make(stage_context("report", inputs=report_inputs.make_inputs(tmp_path / "tiny")))
    assert page.external == []
    assert "url(" not in text
    assert "<script" not in text
    assert page.faults == []
    assert page.open == []
    assert page.links == page.anchors == {"physical", "videos", "digital", "probe", "training", "collect", "run"}
    assert "81 to 97" in page.words  # the interval
    assert "46 of 50" in page.words
    assert "2 % of 50" in page.words.replace("\u2009", " ")  # random actions
    assert "64 %" in page.words.replace("\u2009", " ")  # Diffusion Policy
    assert "50 to 76" in page.words
    assert "1.2e-07" in page.words
    assert "30 were done by this run's policy alone and 2 by Diffusion Policy alone" in page.words
    assert "86 %" in page.words.replace("\u2009", " ")  # the paper's PickCube
    assert "7B backbone, other demonstrations" in page.words
    assert "0.31 cm" in page.words
    assert text.count("<video") == 6
    assert text.count("data:video/mp4;base64,") == 6
    assert "2 min 05 s" in page.words
    assert "torch" in page.words


def test_parts_whose_inputs_are_absent_are_left_out(tmp_path: Path, stage_context: Context) -> None:
    inputs = report_inputs.make_inputs(tmp_path / "tiny")
    shutil.rmtree(inputs["evaluate"] / "videos")
    (inputs["evaluate"] / "digital.json").unlink()
    (inputs["intents"] / "probe.json").unlink()
    (inputs["stage1"] / "metrics.json").unlink()
    _, page = make(stage_context("report", inputs=inputs))
    assert page.anchors == {"physical", "training", "collect", "run"}
    assert page.faults == []


def test_a_report_of_nothing_is_still_a_page(stage_context: Context) -> None:
    _, page = make(stage_context("report"))
    assert page.anchors == set()
    assert page.faults == []


def test_videos_keep_to_the_budget_and_show_successes_and_failures(tmp_path: Path, stage_context: Context) -> None:
    inputs = report_inputs.make_inputs(tmp_path / "tiny")
    sizes = [path.stat().st_size for path in (inputs["evaluate"] / "videos").glob("*.mp4")]
    config = ReportConfig(videos_per_cell=2, video_budget_mb=1e-6 * 4.5 * max(sizes))
    text, page = make(stage_context("report", inputs=inputs), config)
    assert text.count("<video") == 4
    assert page.words.count(": success") == 2
    assert page.words.count(": failure") == 2
    assert "2 more in the evaluation's folder" in page.words


def test_robots_and_tasks_get_a_table_with_averages_of_every_policy_and_the_papers(
    tmp_path: Path, stage_context: Context
) -> None:
    cells = ("panda/PushCube", "panda/PickCube", "xarm6/PushCube")
    text, page = make(stage_context("report", inputs=report_inputs.make_inputs(tmp_path / "tiny", cells=cells)))
    (table,) = re.findall(r"By robot and task</h3>(.*?)</table>", text, flags=re.S)
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", table)[1:]]
    assert [row[0] for row in rows[::2]] == [
        "this run",
        "this run&#x27;s Diffusion Policy",
        "random actions",
        "paper: BLM1",
        "paper: Diffusion Policy",
        "paper: Diffusion Policy, one model a robot",
        "paper: Diffusion Policy, one model a cell",
    ]
    averages = [re.sub("<.*?>", "", row[-1]) for row in rows]
    assert averages[:6] == ["92.0", "92.0", "64.0", "64.0", "2.0", "2.0"]
    assert rows[6][1:] == ["panda", "100", "86", "93"]  # the paper's PushCube and PickCube
    assert rows[7][1:3] == ["xarm6", "100"]
    assert "quiet" in rows[7][3]  # a cell that was not evaluated
    assert page.faults == []


def test_a_run_without_a_baseline_has_no_column_for_it(tmp_path: Path, stage_context: Context) -> None:
    inputs = report_inputs.make_inputs(tmp_path / "tiny")
    path = inputs["evaluate"] / "summary.json"
    cells = [c for c in json.loads(path.read_text())["cells"] if c["policy"] != "diffusion_policy"]
    path.write_text(json.dumps({"cells": cells}))
    _, page = make(stage_context("report", inputs=inputs))
    assert "its interval" not in page.words
    assert "scenes that both met" not in page.words
    assert "this run's Diffusion Policy" not in page.words
    assert "81 to 97" in page.words


def test_what_comes_from_outside_is_escaped(tmp_path: Path, stage_context: Context) -> None:
    config = ReportConfig(title="<b>&</b>")
    text, page = make(stage_context("report"), config)
    assert "<b>&</b>" not in text
    assert "<b>&</b>" in page.words


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1500), (0, 1), (0.02, 0.031), (-3, 4), (5, 5), (0, 0), (1e-7, 3e-7), (0, 123456)]
)
def test_ticks_cover_the_range_in_round_steps(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert marks[0] <= low
    assert marks[-1] >= high
    assert 2 <= len(marks) <= 9
    steps = [b - a for a, b in pairwise(marks)]
    assert all(math.isclose(step, steps[0]) for step in steps)


@pytest.mark.parametrize(("low", "high"), [(0.02, 6.3), (1, 1), (1e-5, 10), (0.5, 0.6)])
def test_log_ticks_cover_the_range(low: float, high: float) -> None:
    marks = log_ticks(low, high)
    assert marks[0] <= low
    assert marks[-1] >= high
    assert len(marks) <= 10


def test_tick_labels_are_short() -> None:
    assert [number(v) for v in (0, 0.05, 12, 3000, 30_000, 1e-5)] == ["0", "0.05", "12", "3000", "30k", "1e-05"]


def test_curves_leave_out_what_cannot_be_drawn() -> None:
    points = ((0.0, 1.0), (1.0, math.nan), (2.0, math.inf), (3.0, 0.0), (4.0, 0.1))
    text = line_chart([Line(name="loss & co", points=points)], x_label="step", y_label="loss", log_y=True)
    (drawn,) = re.findall(r"points='([^']*)'", text)
    assert len(drawn.split()) == 2
    assert "nan" not in text
    assert "loss &amp; co" in text
    assert "no data" in line_chart([], x_label="step", y_label="loss")


def test_rates_are_drawn_where_they_belong() -> None:
    text = rate_chart([Rate(name="a", rate=0.5, low=0.25, high=0.75, random=0.0, paper=1.0)])
    x1, x2 = (float(v) for v in re.findall(r"class='interval c0' x1='([\d.]+)' x2='([\d.]+)'", text)[0])
    centre = float(re.findall(r"class='dot c0' cx='([\d.]+)'", text)[0])
    assert math.isclose((x1 + x2) / 2, centre, abs_tol=0.1)


PUBLISHED_AVERAGES = {
    "pi0": (84.00, 67.33, 55.33, 63.00, 67.42),
    "pi0, one model a robot": (82.33, 66.33, 60.00, 55.67, 66.08),
    "HPT": (55.00, 48.67, 51.33, 45.00, 50.00),
    "UniAct": (51.67, 52.67, 51.33, 19.00, 43.67),
    "GR00T-N1": (67.67, 69.33, 64.00, 59.33, 65.08),
    "GR00T-N1.5, pre-trained": (80.33, 84.67, 71.33, 65.33, 75.42),
    "Diffusion Policy": (51.67, 64.00, 66.33, 40.00, 55.50),
    "Diffusion Policy, one model a robot": (66.00, 69.00, 69.33, 52.00, 64.08),
    "Diffusion Policy, one model a cell": (74.00, 79.33, 78.33, 55.00, 71.67),
    "GR00T-N1.5, from scratch": (82.67, 74.33, 70.67, 63.33, 72.75),
    "BLM1": (84.67, 80.33, 74.67, 63.67, 75.83),
}


@pytest.mark.parametrize("model", PHYSICAL)
def test_the_papers_physical_numbers_agree_with_its_published_averages(model: str) -> None:
    averages = [sum(rates.values()) / len(TASKS) for rates in PHYSICAL[model].values()]
    averages.append(sum(averages) / len(ROBOTS))
    assert averages == pytest.approx(PUBLISHED_AVERAGES[model], abs=0.006)


def test_the_papers_digital_numbers_agree_with_its_published_averages() -> None:
    averages = {model: sum(scores.values()) / len(scores) for model, scores in DIGITAL.items()}
    assert averages["BLM1"] == pytest.approx(64.88, abs=0.006)
    assert averages["GPT-4o"] == pytest.approx(59.86, abs=0.006)
    assert averages["Qwen2.5-VL-7B-Instruct"] == pytest.approx(57.51, abs=0.006)


def test_cells_that_the_paper_has_not_have_no_reference() -> None:
    assert paper_rate("panda", "PickCube") == 0.86
    assert paper_rate("panda", "PokeCube") is None
    assert paper_rate("so101", "PickCube") is None
