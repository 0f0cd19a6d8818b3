"""The evaluation as a stage: what it writes, that it goes on where it was killed, and what it refuses."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_corpus import write_corpus
from small_diffusion import write_small_diffusion_policy
from small_policy import write_small_policy

from blm.actors.sim.execution_options import ExecutionConfig
from blm.actors.sim.world import WorldConfig
from blm.model.errors import UserError
from blm.pipelines.digital.simulator import DigitalConfig
from blm.pipelines.evaluate import EvaluateConfig, evaluate
from blm.pipelines.evaluation.contestants import contestants, order
from blm.pipelines.evaluation.references import OtherPolicy, check_checkpoint
from blm.pipelines.workspace import ResourceConfig, StageContext, write_json

WORLD = WorldConfig(cells=("panda/PushCube",))
ALL = [{"scope": "all", "folder": "model", "cells": list(WORLD.cells)}]
CONFIG = EvaluateConfig(
    episodes_per_cell=3,
    random_episodes_per_cell=3,
    side_by_side=2,
    max_steps=16,
    videos_per_cell=1,
    video_px=64,
    digital=DigitalConfig(questions=6, batch=4, max_new_tokens=8, without_picture=False),
)


@pytest.fixture(scope="module")
def inputs(learned_mllm: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small but real outputs of the stages before."""
    root = tmp_path_factory.mktemp("inputs")
    shutil.copytree(learned_mllm, root / "stage1" / "model")
    write_json(root / "stage1" / "metrics.json", {"accuracy": {"before": {}}})
    write_corpus(root / "corpora")
    write_small_policy(root / "stage2" / "model", root / "stage1" / "model")
    write_small_diffusion_policy(root / "baseline" / "model", image_px=WORLD.image_px)
    for stage in ("stage2", "baseline"):
        write_json(root / stage / "models.json", ALL)
    return {name: root / name for name in ("corpora", "stage1", "stage2", "baseline")}


def lines(out: Path, name: str = "episodes.jsonl") -> list[dict[str, Any]]:
    """The records of a file, as it stands."""
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


@pytest.mark.ray
@pytest.mark.sim
@pytest.mark.slow
def test_the_stage_writes_its_results_and_continues_a_killed_attempt_to_the_same_ones(
    ray_cluster: None, inputs: dict[str, Path], stage_context: Callable[..., StageContext]
) -> None:
    context = stage_context("evaluate", inputs=inputs, world=WORLD)
    out = context.out
    summary = evaluate(CONFIG, context)
    first, log = lines(out), out / "episodes.jsonl"
    outcomes = log.read_bytes()
    assert [(r["policy"], r["seed"] - 1_000_000) for r in first] == [
        (policy, i) for policy in ("blm", "diffusion_policy", "random") for i in range(3)
    ]
    assert not any(record["error"] for record in first)
    assert [(r["policy"], r["seed"]) for r in lines(out, "timings.jsonl")] == [(r["policy"], r["seed"]) for r in first]
    written = json.loads((out / "summary.json").read_text())
    (ours, baseline, random) = written["cells"]
    assert (ours["cell"], ours["policy"], ours["episodes"]) == ("panda/PushCube", "blm", 3)
    assert (baseline["policy"], baseline["episodes"], baseline["errors"]) == ("diffusion_policy", 3, 0)
    assert [(row["cell"], row["policy"], row["pairs"]) for row in written["compared"]] == [
        (cell, policy, 3) for policy in ("diffusion_policy", "random") for cell in ("panda/PushCube", "all")
    ]
    assert ours["low"] <= ours["rate"] <= ours["high"]
    assert sum(ours["failures"].values()) == ours["episodes"] - ours["successes"]
    assert (random["policy"], random["episodes"]) == ("random", 3)
    assert (summary["episodes"], summary["questions"], summary["errors"]) == (9, 6, 0)
    assert summary["digital_accuracy"] == 1.0
    json.dumps(summary)
    videos = sorted(path.name for path in (out / "videos").iterdir())
    assert videos
    assert all(re.fullmatch(r"panda-PushCube-seed\d{7}-(success|failure)\.mp4", name) for name in videos)

    # As a kill leaves it: an episode missing, a torn line, an episode that ended in an error, videos missing.
    kept = [r for r in first if (r["policy"], r["seed"]) != ("blm", 1_000_001)]
    kept = [r | {"error": True} if (r["policy"], r["seed"]) == ("random", 1_000_002) else r for r in kept]
    log.write_text("".join(json.dumps(r) + "\n" for r in kept) + '{"cell":"panda/Pu')
    (out / "videos" / videos[0]).unlink()
    (out / "videos" / "panda-PushCube-seed9999999-success.mp4").write_bytes(b"of another choice")
    evaluate(CONFIG, context)
    assert log.read_bytes() == outcomes
    assert len(lines(out, "timings.jsonl")) == 9
    assert sorted(path.name for path in (out / "videos").iterdir()) == videos

    # Another number of actors and of episodes side by side, from the beginning: the same bytes.
    one = replace(context, out=out.parent / "evaluate-11111111", resources=ResourceConfig(actors=1))
    one.out.mkdir()
    evaluate(replace(CONFIG, videos_per_cell=0, side_by_side=3), one)
    assert (one.out / "episodes.jsonl").read_bytes() == outcomes
    assert not (one.out / "videos").exists()


def test_a_model_that_does_not_fit_the_world_is_refused(inputs: dict[str, Path]) -> None:
    folder = inputs["stage2"] / "model"

    def check(config: EvaluateConfig = CONFIG, **world: Any) -> None:
        cells = world.pop("cells", ("panda/PushCube",))
        there = WorldConfig(cells=cells, **world)
        check_checkpoint(folder, config, there, there.parsed_cells())

    check()
    with pytest.raises(UserError, match="needs camera 'front'"):
        check(cameras=("side",))
    with pytest.raises(UserError, match="needs pictures of 112 px"):
        check(image_px=224)
    with pytest.raises(UserError, match="was not trained for xarm6; it knows panda"):
        check(cells=("xarm6/PushCube",))
    with pytest.raises(UserError, match="predicts chunks of 16"):
        check(replace(CONFIG, execution=ExecutionConfig(execute_steps=17)))
    with pytest.raises(UserError, match="does not exist"):
        check_checkpoint(folder / "none", CONFIG, WORLD, ())


def test_each_cell_is_left_to_its_own_model_and_the_baseline_may_be_absent(
    tmp_path: Path, stage_context: Callable[..., StageContext]
) -> None:
    cells = ("panda/PushCube", "xarm6/PushCube", "panda/PickCube")
    robots = [
        {"scope": robot, "folder": f"models/{robot}", "cells": [cell for cell in cells if cell.startswith(robot)]}
        for robot in ("panda", "xarm6")
    ]
    stages = {name: tmp_path / name for name in ("stage2", "baseline")}
    write_json(stages["stage2"] / "models.json", robots)
    write_json(stages["baseline"] / "models.json", [])
    context = stage_context("evaluate", inputs=stages, world=WorldConfig(cells=cells))

    def who(**options: Any) -> list[tuple[str, str, tuple[str, ...], int]]:
        config = EvaluateConfig(**{"episodes_per_cell": 5, "random_episodes_per_cell": 2} | options)
        return [
            (c.policy, Path(c.acting.policy).name, tuple(cell.name for cell in c.cells), len(c.seeds))
            for c in contestants(config, context)
        ]

    ours = [
        ("blm", "panda", ("panda/PushCube", "panda/PickCube"), 5),
        ("blm", "xarm6", ("xarm6/PushCube",), 5),
    ]
    random = ("random", "random", cells, 2)
    assert who() == [*ours, random]
    assert who(episodes_per_cell=0) == [random]
    write_json(stages["baseline"] / "models.json", ALL)
    assert who() == [*ours, ("diffusion_policy", "model", cells, 5), random]
    assert who(baseline=False, random_episodes_per_cell=0) == ours
    others = (OtherPolicy(name="pi", policy="openpi://there:8000"), OtherPolicy(name="old", policy="runs/old/model"))
    assert who(baseline=False, others=others) == [
        *ours,
        ("pi", "there:8000", cells, 5),
        ("old", "model", cells, 5),
        random,
    ]
    assert order(EvaluateConfig(others=others)) == ["blm", "diffusion_policy", "pi", "old", "random"]
    write_json(stages["stage2"] / "models.json", robots[:1])
    with pytest.raises(UserError, match="no model for xarm6/PushCube"):
        who()


def test_a_baseline_is_held_to_the_same_world(inputs: dict[str, Path]) -> None:
    world = WorldConfig(cells=WORLD.cells, image_px=64)
    with pytest.raises(UserError, match="needs pictures of 112 px"):
        check_checkpoint(inputs["baseline"] / "model", CONFIG, world, world.parsed_cells())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side_by_side": 0}, "evaluate.side_by_side is 0"),
        ({"wait_ms": -1.0}, "evaluate.wait_ms is -1"),
        ({"policy_limit_s": 0.0}, "evaluate.policy_limit_s is 0"),
        ({"others": (OtherPolicy(name="blm", policy="x"),)}, "two policies named 'blm'"),
        ({"episodes_per_cell": -1}, "evaluate.episodes_per_cell is -1"),
        ({"episodes_per_cell": 2_000_000}, "more episodes a cell than the 1000000 seeds"),
        ({"video_camera": "frnt"}, "did you mean 'front'"),
        ({"video_px": 225}, "even number"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        EvaluateConfig(**options)


def test_reading_the_configuration_imports_neither_ray_nor_the_simulator() -> None:
    import subprocess
    import sys

    code = (
        "import sys, blm.pipelines.evaluate; "
        "print([name for name in ('ray', 'mani_skill', 'sapien', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
