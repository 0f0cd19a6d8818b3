"""Scores of whole benchmarks, and the tables in which they stand beside the paper's."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from small_benchmarks import write_all, write_cosmos
from small_judge import small_judge

from blm.model.errors import UserError
from blm.pipelines.digital import tables
from blm.pipelines.digital.benchmarks import BENCHMARKS, LoadRules, load_items
from blm.pipelines.digital.evaluation import read_result
from blm.pipelines.digital.generate import Reading
from blm.pipelines.digital.item import Item
from blm.pipelines.digital.judge import Judge, JudgeConfig
from blm.pipelines.digital.marks import NO_JUDGE, Marking, mark, summarise
from blm.pipelines.paper_tables import BY_CATEGORY, DIGITAL

PUBLISHED = {"robovqa": 110, "agibot": 100, "holoassist": 100, "robofail": 100, "egothink": 700, "sharerobot": 4100}


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    root = write_all(tmp_path_factory.mktemp("benchmarks"), per_category=2)
    return [item for name in PUBLISHED for item in load_items(BENCHMARKS[name], root, LoadRules())]


def marking(judge: Judge | None = None, scorer: str = "judge", **changes: Any) -> Marking:
    values: dict[str, Any] = {
        "reading": Reading(parser="robust", reasoning=False),
        "scorers": {"egothink": scorer, "sharerobot": scorer},
        "judge": judge,
        "judge_name": "small" if judge else "",
    }
    return Marking(**values | changes)


def said(items: Sequence[Item], answer: str | None = None) -> dict[tuple[str, str], dict[str, Any]]:
    """Right answers, or always the same."""
    base = {"finished": True, "error": "", "tries": 1}
    return {item.key: base | {"said": item.reference if answer is None else answer} for item in items}


def of(items: Sequence[Item], name: str) -> list[Item]:
    return [item for item in items if item.benchmark == name]


# -------------------------------------------------------------------------------------------------------------- scores


def test_letters_are_scored_over_rows_with_an_interval(items: list[Item]) -> None:
    mine = of(items, "robovqa")  # the answers are B, A, B
    lines = mark(mine, said(mine, "The answer is B"), marking())
    assert [line["score"] for line in lines] == [1.0, 0.0, 1.0]
    summary = summarise(mine, lines, marking())["robovqa"]
    assert (summary["n"], summary["expected"], summary["score"]) == (3, 110, pytest.approx(2 / 3))
    assert summary["low"] < 2 / 3 < summary["high"]
    assert summary["scored_by"] == "letter, robust parser"
    official = marking(reading=Reading(parser="official", reasoning=False))
    lines = mark(mine, said(mine, "The answer is B"), official)
    assert [line["extracted"] for line in lines] == ["T"] * 3
    assert summarise(mine, lines, official)["robovqa"]["score"] == 0


def test_judged_scores_are_means_of_sub_categories(items: list[Item], tmp_path: Path) -> None:
    mine = of(items, "egothink")
    answers = said(mine, "no")
    for item in mine:
        if item.category == "activity" or item.id == "forecast-0000":
            answers[item.key]["said"] = item.reference
        elif item.id == "forecast-0001":
            answers[item.key]["said"] = "ans, more or less"
    mine = [item for item in mine if item.id != "object_affordance-0001"]  # sub-categories need not be of one size
    with small_judge() as server:
        judged = marking(Judge(JudgeConfig(url=server.url, model="small"), tmp_path / "verdicts.jsonl"))
        summary = summarise(mine, mark(mine, answers, judged), judged)["egothink"]
    rows = {row["category"]: row["score"] for row in summary["categories"]}
    assert (rows["activity"], rows["forecast"], rows["planning_navigation"]) == (1.0, 0.75, 0.0)
    assert summary["score"] == pytest.approx(1.75 / 12)
    assert (summary["scored_by"], summary["unparsed"], summary["paper_rule"]) == ("judge small", 0, True)
    assert [decoding["max_new_tokens"] for decoding in summary["decoding"]] == [30, 300]
    assert "low" not in summary  # 0, 0.5 and 1 are no shares of right answers


def test_what_the_judge_leaves_unsaid_counts_as_nothing_and_is_told(items: list[Item], tmp_path: Path) -> None:
    mine = of(items, "egothink")
    with small_judge(lambda text: "[[1]]" if "activity" in text else "who knows") as server:
        judged = marking(Judge(JudgeConfig(url=server.url, model="small"), tmp_path / "verdicts.jsonl"))
        summary = summarise(mine, mark(mine, said(mine), judged), judged)["egothink"]
    assert (summary["unparsed"], summary["score"]) == (22, pytest.approx(1 / 12))


def test_without_a_judge_there_is_no_score_unless_another_rule_is_asked_for(items: list[Item]) -> None:
    mine = of(items, "sharerobot")
    lines = mark(mine, said(mine), marking())
    summary = summarise(mine, lines, marking())["sharerobot"]
    assert (summary["score"], summary["scored_by"], summary["paper_rule"]) == (None, NO_JUDGE, False)
    assert {line["score"] for line in lines} == {None}
    assert all(line["said"] for line in lines)
    for scorer, label in (("exact", "equal words, not the paper's judge"), ("bleu", "BLEU as RoboBrain counts it")):
        other = marking(scorer=scorer)
        summary = summarise(mine, mark(mine, said(mine), other), other)["sharerobot"]
        assert summary["score"] == pytest.approx(1.0)
        assert label in summary["scored_by"]
        assert not summary["paper_rule"]


def test_missing_media_and_errors_count_as_wrong_and_are_counted(tmp_path: Path) -> None:
    folder = write_cosmos(tmp_path, "robovqa")
    (folder / "clips" / "a.mp4").unlink()
    mine = load_items(BENCHMARKS["robovqa"], tmp_path, LoadRules())
    answers = said([item for item in mine if not item.missing])
    answers[mine[1].key] |= {"said": "", "error": "too long"}
    summary = summarise(mine, mark(mine, answers, marking()), marking())["robovqa"]
    assert (summary["n"], summary["answered"], summary["missing"], summary["errors"]) == (3, 1, 1, 2)
    assert summary["score"] == pytest.approx(1 / 3)


# -------------------------------------------------------------------------------------------------------------- tables


def test_the_papers_rows_average_to_the_papers_averages() -> None:
    blm1 = DIGITAL["BLM1"]
    assert fmean(blm1.values()) == pytest.approx(64.88, abs=0.01)
    assert fmean(BY_CATEGORY["egothink"]["BLM1"].values()) == pytest.approx(blm1["EgoThink"], abs=0.01)
    assert fmean(BY_CATEGORY["sharerobot"]["BLM1"].values()) == pytest.approx(blm1["ShareRobot"], abs=0.02)
    for name, models in BY_CATEGORY.items():
        assert all(list(scores) == list(BENCHMARKS[name].expected) for scores in models.values())


def result_of(items: list[Item], name: str, **changes: Any) -> dict[str, Any]:
    exact = marking(scorer="exact")
    measured = summarise(items, mark(items, said(items), exact), exact)
    result = {"format": 1, "model": name, "judge": None, "grader": "exact", "benchmarks": measured}
    return result | {"average": tables.average(result)} | changes


def test_the_table_has_the_papers_layout_and_says_what_is_not_comparable(items: list[Item]) -> None:
    result = result_of(items, "mine")
    six = tables.tables([result])[0]
    assert six.head == ("model", "RoboVQA", "AgiBot", "HoloAssist", "RoboFail", "EgoThink", "ShareRobot", "average")
    assert [row[0] for row in six.rows] == [*DIGITAL, "mine"]
    assert six.rows[-2] == ("BLM1", "95.45", "47.00", "56.00", "66.00", "59.42", "65.40", "64.88")
    assert six.rows[-1] == ("mine", *["100.00*"] * 4, "100.00†*", "100.00†*", "100.00†*")
    whole = copy.deepcopy(result)
    for name, summary in whole["benchmarks"].items():
        summary |= {"n": PUBLISHED[name], "paper_rule": True}
    assert tables.tables([whole])[0].rows[-1] == ("mine", *["100.00"] * 7)
    whole["benchmarks"]["egothink"]["score"] = None
    assert tables.tables([whole])[0].rows[-1][-3:] == ("-", "100.00", "-")


def test_sub_categories_stand_below_the_papers(items: list[Item]) -> None:
    titles = {table.title: table for table in tables.tables([result_of(items, "mine")])}
    egothink = titles["EgoThink, %"]
    assert egothink.rows[0][:3] == ("BLM1", "55.00", "51.00")
    assert egothink.rows[0][-1] == "59.42"
    assert egothink.rows[1][0] == "mine"
    assert len(egothink.head) == 14
    assert len(titles["ShareRobot, %"].head) == 12
    how = {row[0]: row for row in titles["How it was measured: mine"].rows}
    assert how["RoboVQA"][3] == "3 of 110"


def test_models_are_compared_row_by_row_and_column_by_column(items: list[Item]) -> None:
    measured = {"n": 8, "accuracy": 0.5, "perplexity": 7.25, "bits_per_byte": 1.5, "low": 0.2, "high": 0.8}
    rows = [{"source": "corpus", "category": "facts", **measured}]
    before, after = result_of(items, "before"), result_of(items, "after")
    before["benchmarks"]["language"] = measured | {"categories": rows}
    after["benchmarks"]["language"] = measured | {"categories": [rows[0] | {"perplexity": 6.5}]}
    titles = {table.title: table for table in tables.tables([before, after])}
    assert [row[0] for row in titles["Digital space, %"].rows[-2:]] == ["before", "after"]
    language = titles["Plain language"]
    assert language.rows == (("corpus: facts", "8", "50.00", "7.250", "1.500", "50.00", "6.500", "1.500"),)
    assert language.head[3:6] == ("before: perplexity", "before: bits a byte", "after: right, %")


def test_tables_are_text_markdown_and_a_page(items: list[Item]) -> None:
    found = tables.tables([result_of(items, "a<b|c")])
    lines = tables.as_text(found[0])
    assert len({len(line) for line in lines[1:]}) == 1
    assert tables.as_text(found[1])[-1].startswith("(1) activity; (2) forecast")
    markdown = tables.as_markdown("Digital space", found, ["by words"])
    assert "| **a<b\\|c** | 100.00* |" in markdown
    page = tables.as_html("Digital space", found, ["by words"])
    assert "a&lt;b|c" in page
    assert "a<b" not in page


def test_only_results_are_compared_with(tmp_path: Path, items: list[Item]) -> None:
    path = tmp_path / "digital.json"
    path.write_text(json.dumps(result_of(items, "mine")))
    assert read_result(path)["model"] == "mine"
    path.write_text('{"n": 3, "categories": []}')
    with pytest.raises(UserError, match="is no result of `blm evaluate digital`"):
        read_result(path)
