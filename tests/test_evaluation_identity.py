"""Simulators, a trained policy, several processes of each kind, one of them killed: what comes out is what one plain
process finds out by itself.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from small_kills import Killer
from small_policy import write_small_policy

from blm.actors.rollout import episode_file
from blm.actors.sim.outcome import RolloutItem
from blm.actors.sim.world import WorldConfig, seed_range
from blm.model.errors import UserError
from blm.pipelines.evaluate import EvaluateConfig
from blm.pipelines.evaluation.books import EPISODES
from blm.pipelines.evaluation.references import OtherPolicy, load_checkpoint
from blm.pipelines.evaluation.rollouts import time_shares
from blm.pipelines.evaluation.standalone import PolicyEvaluation, evaluate_policy, name_of
from blm.pipelines.ledger import Record
from blm.pipelines.workspace import ResourceConfig

WORLD = WorldConfig(cells=("panda/PushCube", "panda/PickCube"))
SEEDS = seed_range("evaluate")[:6]
CONFIG = EvaluateConfig(max_steps=24, side_by_side=2, merge=8)


def plain(folder: Path) -> tuple[bytes, list[bytes]]:
    """What the file of an evaluation should be, and the states of its episodes; without Ray, in one batch."""
    from blm.actors.rollout import MeteredPolicy
    from blm.actors.sim.runner import RolloutRunner

    loaded: Any = load_checkpoint(folder, CONFIG, ResourceConfig())
    loaded.sees = True
    runner = RolloutRunner(WORLD, CONFIG.rollout, MeteredPolicy("small", loaded), slots=5)
    items = [RolloutItem(cell=cell, seed=seed, keep=folder) for cell in WORLD.parsed_cells() for seed in SEEDS]
    finished = runner.run(items)
    runner.close()
    lines = [json.dumps(asdict(one.result), separators=(",", ":")) + "\n" for one in finished]
    return "".join(sorted(lines)).encode(), [
        one.episode.states.tobytes() for one in finished if one.episode is not None
    ]


@pytest.mark.ray
@pytest.mark.sim
@pytest.mark.slow
def test_an_evaluation_by_many_processes_is_that_of_one(ray_cluster: None, tiny_mllm: Path, tmp_path: Path) -> None:
    from blm.actors.sim.episode import read_episodes

    folder, out = write_small_policy(tmp_path / "model", tiny_mllm), tmp_path / "out"
    killer = Killer("RolloutWorker", out, kills=1, episodes=len(SEEDS))
    killer.start()
    policy = OtherPolicy(name="small", policy=str(folder))
    resources = ResourceConfig(actors=2)
    with PolicyEvaluation(policy, world=WORLD, out=out, config=CONFIG, resources=resources, keep=True) as evaluation:
        first = evaluation.run(WORLD.cells, SEEDS[:2])
        records = evaluation.run(WORLD.cells, SEEDS)
        shares = evaluation.time_shares
    killer.join(timeout=10)
    assert killer.killed == 1
    assert [(r["cell"], r["seed"]) for r in records] == [(cell, seed) for cell in WORLD.cells for seed in SEEDS]
    assert first == [record for record in records if record["seed"] in SEEDS[:2]]
    assert [record["detail"] for record in records] == [""] * 12
    expected, states = plain(folder)
    assert (out / EPISODES).read_bytes() == expected
    kept = [
        read_episodes(episode_file(out / "rollouts" / cell.slug, seed))[0].states.tobytes()
        for cell in WORLD.parsed_cells()
        for seed in SEEDS
    ]
    assert kept == states
    assert sum(shares.values()) == pytest.approx(1.0, abs=0.01)

    # The folder is that policy's, in that world.
    for other in ({"name": "other"}, {"config": EvaluateConfig(max_steps=25)}, {"world": WorldConfig(image_px=64)}):
        arguments: dict[str, Any] = {"name": "small", "config": CONFIG, "world": WORLD} | other
        with pytest.raises(UserError, match=r"differs in .(policy|options).|needs pictures of 112"):
            evaluate_policy(str(folder), cells=(), seeds=SEEDS, out=out, resources=resources, **arguments)


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("random", "random"),
        ("openpi://there:8000", "there-8000"),
        ("runs/tiny/stage2-1a2b3c4d/model", "blm"),
        ("runs/tiny/baseline-1a2b3c4d/models/panda", "diffusion_policy"),
        ("somewhere/mine", "mine"),
    ],
)
def test_a_policy_has_a_name_if_nobody_gives_one(reference: str, name: str) -> None:
    assert name_of(reference) == name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "a b", "policy": "x"}, "named 'a b'"),
        ({"name": "a", "policy": ""}, "named by nothing"),
        ({"name": "a", "policy": "folder", "mapping": Path("m.yaml")}, "is no server and needs no mapping"),
    ],
)
def test_references_that_make_no_sense_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        OtherPolicy(**given)


def test_shares_of_time_are_of_all_episodes_together() -> None:
    timings: list[Record] = [
        {"physics_s": 1.0, "render_s": 0.5, "wait_s": 0.5},
        {"physics_s": 1.0, "render_s": 0.5, "wait_s": 0.5},
    ]
    assert time_shares(timings) == {"physics": 0.5, "render": 0.25, "wait": 0.25}
    assert time_shares([]) == {}
