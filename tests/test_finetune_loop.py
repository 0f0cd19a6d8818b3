"""The training loop of Stage I: it learns, and a killed one continues bitwise."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from small_stage1 import learned, loop_config, run, run_and_die
from small_workers import on_workers

from blm.model.backbone import load_backbone
from blm.pipelines.mixture import row_order


@pytest.fixture
def process_group(tmp_path):
    """A process group of one, as a training worker would find it."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def rarely_saved(config: dict[str, Any]) -> dict[str, Any]:
    """The same training with a checkpoint at its end alone."""
    return config | {"stage": replace(config["stage"], checkpoint_every_s=1e9)}


def test_it_learns_what_the_picture_shows_and_resumes_bitwise(process_group, tiny_mllm, tmp_path):
    config = loop_config(tiny_mllm, tmp_path)
    run(rarely_saved(config))
    undisturbed = json.loads((tmp_path / "out/metrics.json").read_text())
    assert undisturbed["accuracy"]["before"]["all"] < 0.2
    assert undisturbed["accuracy"]["after"]["all"] > 0.9
    assert undisturbed["heldout"]["picture"]["hidden"] < 0.8
    assert undisturbed["curve"][0]["grounding"] > undisturbed["curve"][-1]["grounding"]
    assert [point["step"] for point in undisturbed["curve"]] == [25, 50, 75, 100]
    assert undisturbed["skipped_steps"] == 0
    assert undisturbed["mixture"]["language"]["rows"] == 21

    again = config | {"out": str(tmp_path / "again")}
    run_and_die(again, 86)  # in the midst of the conversations, between points of the curve
    assert [path.name for path in (tmp_path / "again/train").iterdir()] == ["000086"]
    assert not (tmp_path / "again/model").exists()
    run(again)
    resumed = json.loads((tmp_path / "again/metrics.json").read_text())
    assert learned(tmp_path / "again") == learned(tmp_path / "out")
    assert resumed["accuracy"] == undisturbed["accuracy"]
    first, second = (load_backbone(tmp_path / out / "model")[0].state_dict() for out in ("out", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_other_workers_go_on_with_the_same_rows(process_group, tiny_mllm, tmp_path):
    """Two workers with sharded parameters are killed, one with whole ones goes on."""
    options = {
        "backbone": str(tiny_mllm),
        "optimizer": "adamw",
        "precision": "float32",
        "steps": 30,
        "micro_tokens": 512,
        "ema": 0.9,
    }
    config = loop_config(tiny_mllm, tmp_path, **options)
    run(rarely_saved(config))
    other = config | {"out": str(tmp_path / "other")}
    on_workers(run_and_die, 2, other | {"stage": replace(config["stage"], parallel="fsdp")}, 18)
    assert [path.name for path in (tmp_path / "other/train").iterdir()] == ["000018"]
    run(other)
    for ours, theirs in zip(learned(tmp_path / "other"), learned(tmp_path / "out"), strict=True):
        assert ours == pytest.approx(theirs, abs=2e-3, rel=2e-2)
    first, second = (load_backbone(tmp_path / out / "model")[0].state_dict() for out in ("out", "other"))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=2e-3, rtol=1e-2)


def test_sharded_workers_without_pictures_or_without_rows_keep_up(process_group, tiny_mllm, tmp_path):
    """With one or two conversations a step, one of two workers often has only talk, or nothing at all."""
    options = {"backbone": str(tiny_mllm), "optimizer": "adamw", "precision": "float32", "steps": 10}
    whole = [rarely_saved(loop_config(tiny_mllm, tmp_path / str(n), batch=n, **options)) for n in (1, 2)]
    run(*whole)
    sharded = [
        config | {"out": f"{config['out']}-sharded", "stage": replace(config["stage"], parallel="fsdp")}
        for config in whole
    ]
    on_workers(run, 2, *sharded)
    for mine, same in zip(sharded, whole, strict=True):
        for ours, theirs in zip(learned(Path(mine["out"])), learned(Path(same["out"])), strict=True):
            assert ours[:5] == pytest.approx(theirs[:5], abs=2e-3, rel=2e-2)


def test_row_order_visits_every_row_once_an_epoch_and_depends_on_nothing_but_its_place():
    whole = row_order(10, 0, 30, seed=1)
    assert [sorted(whole[i : i + 10]) for i in (0, 10, 20)] == [list(range(10))] * 3
    assert np.array_equal(row_order(10, 7, 9, seed=1), whole[7:16])
    assert not np.array_equal(whole[:10], whole[10:20])
