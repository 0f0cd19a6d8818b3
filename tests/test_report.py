"""The report: one page that needs nothing else, whole or with parts missing; and the paper's tables."""

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import report_inputs

from blm.pipelines.paper_tables import DIGITAL, PHYSICAL, ROBOTS, TASKS, paper_rate
from blm.pipelines.report import ReportConfig, report, rollout_tiles
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
    assert "Simulation and robot geometry of all episodes: cpu, lite." in page.words
    assert "dropped: 6%" in page.words  # of 50 episodes, in the chart of outcomes
    assert "error: 2%" in page.words
    assert "1,234" in page.words  # jerk
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
    assert [row[0] for row in rows[::3]] == [
        "this run",
        "this run&#x27;s Diffusion Policy",
        "random actions",
        "paper: BLM1",
        "paper: Diffusion Policy",
        "paper: Diffusion Policy, one model a robot",
        "paper: Diffusion Policy, one model a cell",
    ]
    assert [row[1] for row in rows[:3]] == ["panda", "xarm6", "all"]
    values = [[re.sub("<.*?>", "", value) for value in row[2:]] for row in rows]
    assert [row[-1] for row in values[:9:3]] == ["92.0", "64.0", "2.0"]
    assert values[2] == ["92", "92", "92.0"]  # all robots, by task
    assert rows[9][1] == "panda"
    assert values[9] == ["100", "86", "93.0"]  # the paper's PushCube and PickCube
    assert rows[10][1:3] == ["xarm6", "100"]
    assert "quiet" in rows[10][3]  # a cell that was not evaluated
    assert values[11] == ["100", "86", "96.5"]  # robots counting alike
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


def test_another_policy_has_columns_and_rows_of_its_own(tmp_path: Path, stage_context: Context) -> None:
    inputs = report_inputs.make_inputs(tmp_path / "tiny")
    path = inputs["evaluate"] / "summary.json"
    summary = json.loads(path.read_text())
    theirs = [row | {"policy": "pi<0>", "rate": 0.5} for row in summary["cells"] if row["policy"] == "random"]
    path.write_text(json.dumps(summary | {"cells": [*summary["cells"], *theirs], "backend": ""}))
    text, page = make(stage_context("report", inputs=inputs))
    (table,) = re.findall(r"By robot and task</h3>(.*?)</table>", text, flags=re.S)
    first_of_rows = [re.findall(r"<td[^>]*>(.*?)</td>", row)[0] for row in re.findall(r"<tr>(.*?)</tr>", table)[1:]]
    assert first_of_rows[:4] == [
        "this run",
        "this run&#x27;s Diffusion Policy",
        "pi&lt;0&gt;",
        "random actions",
    ]
    assert "all episodes: not recorded" in page.words
    assert page.faults == []


def test_comparisons_and_curves_of_the_run_are_sections(tmp_path: Path, stage_context: Context) -> None:
    context = stage_context("report", inputs=report_inputs.make_inputs(tmp_path / "tiny"))
    for place, result in (
        ("compare/one/compare.json", report_inputs.compared()),
        ("compare/two/compare.json", report_inputs.compared(better=None)),
        ("curve/curve.json", report_inputs.curve()),
    ):
        path = context.out.parent / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result))
    text, page = make(context)
    assert {"compare", "latency"} <= page.anchors
    assert "runs/a is better: decided after 40 scenes, at an error rate of 5 %." in page.words
    assert "undecided after 40 scenes." in page.words
    assert "Difference +40.0 points, +10.0 to +60.0 (95 % interval" in page.words
    assert "20 of 50 scenes of each cell were needed" in page.words
    assert "blm & co" in page.words
    assert text.count("<polygon class='band") == 2  # success has intervals, jerk has none
    assert page.faults == []


def test_what_comes_from_outside_is_escaped(tmp_path: Path, stage_context: Context) -> None:
    config = ReportConfig(title="<b>&</b>")
    text, page = make(stage_context("report"), config)
    assert "<b>&</b>" not in text
    assert "<b>&</b>" in page.words


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


def test_many_cells_are_told_as_a_whole_with_the_hardest_beside() -> None:
    cells = [{"cell": f"panda/{n}", "episodes": 50, "successes": n, "rate": n / 50} for n in (50, 20, 45, 40, 35)]
    assert [value for value, _ in rollout_tiles(cells[:4])] == ["100%", "40%", "90%", "80%"]
    (all_of_them, what), (least, where) = rollout_tiles(cells)
    assert (all_of_them, least) == ("76.0%", "40%")
    assert "250 rollouts of 5 cells" in what
    assert "panda/20" in where
