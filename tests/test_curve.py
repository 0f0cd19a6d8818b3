"""The latency curve: which points it has, what is said of them, and that it goes on where it was broken off."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from small_diffusion import write_small_diffusion_policy

from blm.actors.sim.execution_options import ExecutionConfig
from blm.actors.sim.world import WorldConfig, seed_range
from blm.model.errors import UserError
from blm.pipelines.evaluation.curve import (
    Curve,
    add_arguments,
    check_modes,
    checkpoint_of,
    default_out,
    executions,
    main,
    summary,
)
from blm.pipelines.evaluation.curve_page import html, text
from blm.pipelines.workspace import write_json

PUSH = "panda/PushCube"


def curve(out: Path, modes: tuple[str, ...] = ("plain", "real_time"), latencies: tuple[int, ...] = (0, 4)) -> Curve:
    return Curve(
        reference="random",
        name="random",
        mapping=None,
        world=WorldConfig(cells=(PUSH,)),
        seeds=seed_range("evaluate")[:4],
        executions=executions(ExecutionConfig(execute_steps=5), modes, latencies),
        out=out,
    )


def episodes(successes: int, jerk: float) -> list[dict[str, Any]]:
    return [
        {
            "cell": PUSH,
            "seed": 1_000_000 + i,
            "policy": "random",
            "success": i < successes,
            "failure": None if i < successes else "not_moved",
            "error": False,
            "steps": 20 + i,
            "time_to_success_s": 1.0 if i < successes else None,
            "jerk_rad_s3": jerk,
            "backend": "cpu, lite",
        }
        for i in range(4)
    ]


DONE = {("plain", 0): episodes(4, 10.0), ("plain", 4): episodes(1, 60.0), ("real_time", 4): episodes(3, 20.0)}


def test_points_of_a_latency_stand_together_plain_first_and_nothing_twice() -> None:
    base = ExecutionConfig(execute_steps=5, ensemble_decay=0.2)
    made = executions(base, ["real_time", "plain", "real_time"], [4, 0, 4])
    assert [(one.latency_steps, one.mode) for one in made] == [
        (0, "plain"), (0, "real_time"), (4, "plain"), (4, "real_time")
    ]  # fmt: skip
    assert {(one.execute_steps, one.ensemble_decay) for one in made} == {(5, 0.2)}
    with pytest.raises(UserError, match="needs a mode and a latency"):
        executions(base, [], [0])


def test_a_point_tells_success_and_whether_it_differs_from_plain_in_the_same_scenes(tmp_path: Path) -> None:
    result = summary(curve(tmp_path), DONE)
    assert (result["backend"], result["control_hz"], result["cells"]) == ("cpu, lite", 20, [PUSH])
    plain, naive, ours = result["points"]
    assert [(one["mode"], one["latency_ms"], one["rate"]) for one in result["points"]] == [
        ("plain", 0, 1.0), ("plain", 200, 0.25), ("real_time", 200, 0.75)
    ]  # fmt: skip
    assert plain["low"] < 1.0 == plain["high"]
    assert naive["median_jerk_rad_s3"] == 60.0
    assert naive["failures"] == {"not_moved": 3}
    assert naive["against_plain"] is None
    assert ours["against_plain"] == {"pairs": 4, "only_first": 2, "only_second": 0, "p": 0.5}
    alone = summary(curve(tmp_path), {("real_time", 4): DONE["real_time", 4]})
    assert alone["points"][0]["against_plain"] is None


def test_the_curve_is_shown_as_text_and_as_charts(tmp_path: Path) -> None:
    result = summary(curve(tmp_path), DONE)
    lines = text(result).splitlines()
    assert lines[1].split() == ["latency", "plain", "real_time"]
    assert lines[2].split()[:3] == ["0", "ms", "100.0%"]
    assert lines[2].split()[-1] == "-"  # not measured
    assert "200 ms" in lines[3]
    assert "75.0%" in lines[3]
    assert lines[4].startswith("real_time against plain at 200 ms: 2 scenes done by it alone, 0 by plain alone")
    page = html(result)
    assert page.count("<svg") == 2
    assert "real time" in page
    assert "cpu, lite" in page


def test_a_run_stands_for_its_policy(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    model = run / "stage2-abc" / "model"
    write_json(run / "run.json", {"stages": {}})
    with pytest.raises(UserError, match="mine has no trained policy yet; run its stage `stage2`"):
        checkpoint_of(str(run))
    write_json(run / "run.json", {"stages": {"stage2": {"folder": "stage2-abc"}}})
    one = {"scope": "all", "folder": "model", "cells": [PUSH]}
    write_json(run / "stage2-abc" / "models.json", [one])
    assert checkpoint_of(str(run)) == str(model)
    assert checkpoint_of(str(model)) == str(model)
    assert checkpoint_of("blm://host:1") == "blm://host:1"
    assert default_out(str(model), "blm") == run / "curve" / "blm"
    assert default_out("blm://host:1", "host-1") == Path("runs/curve/host-1")
    write_json(run / "stage2-abc" / "models.json", [one, one])
    with pytest.raises(UserError, match="has 2 policies; name one of the folders in"):
        checkpoint_of(str(run))


def test_modes_that_a_policy_does_not_have_are_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'fast' is none of plain, ensemble, real_time"):
        check_modes("random", ["fast"])
    check_modes("openpi://host:1", ["plain", "ensemble"])
    check_modes("blm://host:1", ["real_time"])
    with pytest.raises(UserError, match="openpi://host:1 cannot go on from a chunk"):
        check_modes("openpi://host:1", ["plain", "real_time"])
    other = write_small_diffusion_policy(tmp_path / "model")
    check_modes(str(other), ["ensemble"])
    with pytest.raises(UserError, match="cannot go on from a chunk"):
        check_modes(str(other), ["real_time"])


@pytest.mark.ray
@pytest.mark.sim
def test_the_command_measures_what_is_missing_and_keeps_what_is_there(
    ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*more: str) -> dict[str, Any]:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        words = ["random", "--cells", PUSH, "--out", str(tmp_path / "out"), "--actors", "1", "--set", "max_steps=12"]
        assert main("evaluate curve", parser.parse_args([*words, *more])) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    first = call("--latencies", "3", "--modes", "plain", "--episodes", "2")
    assert [(point["mode"], point["latency_ms"]) for point in first["points"]] == [("plain", 150)]
    log = tmp_path / "out" / "plain-3" / "episodes.jsonl"
    before = log.read_bytes()
    both = call("--latencies", "3", "--modes", "plain,real_time", "--episodes", "2")
    assert [point["mode"] for point in both["points"]] == ["plain", "real_time"]
    assert log.read_bytes() == before
    points = json.loads((tmp_path / "out" / "curve.json").read_text())["points"]
    assert [point["episodes"] for point in points] == [2, 2]
    # Random actions do not heed what was executed before: under both modes they do the same.
    told = [json.loads(line) for line in (tmp_path / "out" / "real_time-3" / "episodes.jsonl").read_text().splitlines()]
    assert told == [json.loads(line) for line in before.decode().splitlines()]
    assert "<svg" in (tmp_path / "out" / "curve.html").read_text()
    with pytest.raises(UserError, match="--latencies is '3,x'; give whole numbers"):
        call("--latencies", "3,x")
