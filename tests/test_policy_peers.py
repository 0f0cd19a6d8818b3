"""Unchanged packages of other people against our server and clients, each in an environment of its own.

bash cluster/setup/openpi_env.sh; bash cluster/setup/vla_eval_env.sh
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_policy import write_small_policy
from small_policy_server import NotedPolicy, description_of_random, observation, serving

from blm.actors.remote.references import open_remote
from blm.actors.sim.policies import PolicyError, RandomPolicy
from blm.model.layout import layout_of
from blm.model.types import Observation

ROOT = Path(__file__).parent.parent
OPENPI = ROOT / ".venv-openpi" / "bin" / "python"
VLA_EVAL = ROOT / ".venv-vla-eval" / "bin"
needs_openpi = pytest.mark.skipif(not OPENPI.exists(), reason="openpi-client is not here; cluster/setup/openpi_env.sh")
needs_vla_eval = pytest.mark.skipif(
    not (VLA_EVAL / "vla-eval").exists(), reason="vla-eval is not here; cluster/setup/vla_eval_env.sh"
)


@pytest.fixture(scope="module")
def checkpoint(tiny_mllm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """(an untrained policy for the Panda, its description)."""
    from blm.model.checkpoint_files import read_folder
    from blm.model.description import describe_checkpoint
    from blm.model.predictor import load_policy_for

    folder = write_small_policy(tmp_path_factory.mktemp("served") / "model", tiny_mllm)
    return load_policy_for(folder), describe_checkpoint(read_folder(folder), 8)


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(word) for word in words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


@needs_openpi
def test_openpis_client_gets_our_chunks_whole_and_row_by_row(checkpoint: tuple[Any, Any], tmp_path: Path) -> None:
    policy, description = checkpoint
    ours = [observation(number, cameras=("front",)) for number in range(3)]
    seeds = [5, 2**62, 7]
    np.savez(
        tmp_path / "given.npz",
        pictures=np.stack([one.images["front"] for one in ours]),
        states=np.stack([one.state for one in ours]),
        seeds=np.array(seeds),
    )
    with serving(policy, description) as port:
        run(OPENPI, "tests/openpi_check.py", str(port), tmp_path / "given.npz", tmp_path / "got.npz")
    got = np.load(tmp_path / "got.npz")
    for number, one in enumerate(ours):
        assert np.array_equal(got["chunks"][number], policy.infer_batch([one], [seeds[number]])[0].actions)
    assert np.array_equal(got["rows"], got["chunks"][0])
    assert np.array_equal(got["after"], got["chunks"][0])
    assert "instruction is empty" in str(got["complaint"])
    split = {"queue_ms", "preprocess_ms", "mllm_ms", "denoise_ms", "total_ms", "batch"}
    assert set(json.loads(str(got["timing"]))) == {"infer_ms", "prev_total_ms"} | split


def harness(folder: Path, port: int, benchmark: str, **entry: Any) -> list[dict[str, Any]]:
    """The episodes that vla-eval's command reports, of a server on a port; none may have failed."""
    config = {"output_dir": str(folder), "benchmarks": [{"benchmark": benchmark, **entry}]}
    (folder / "config.yaml").write_text(json.dumps(config))
    url = f"ws://127.0.0.1:{port}"
    done = run(VLA_EVAL / "vla-eval", "run", "-c", folder / "config.yaml", "--server-url", url, "--eval-id", "test")
    assert "Spec mismatch" not in done.stderr
    report = json.loads((folder / f"{benchmark.partition(':')[2]}_aggregate.json").read_text())
    assert report["num_errors"] == 0, report
    return [episode for task in report["tasks"] for episode in task["episodes"]]


@needs_vla_eval
def test_the_harness_gets_single_actions_of_our_chunks_and_is_told_how_we_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    with serving(RandomPolicy(), description_of_random(layouts=(layout_of("panda"),))) as port:
        episodes = harness(tmp_path, port, "vla_eval_toy:Toy", episodes_per_task=2)
    for number, episode in enumerate(sorted(episodes, key=lambda one: one["episode_idx"])):
        assert episode["metrics"]["told"] == {"execute_steps": 8, "cameras": []}
        looks = [
            Observation(
                images={}, state=np.full(8, step / 10, np.float32), instruction="push the cube", embodiment="panda"
            )
            for step in (0, 8)
        ]
        first, second = RandomPolicy().infer_batch(looks, [100 * number, 100 * number + 8])
        assert np.array_equal(episode["metrics"]["actions"], [*first.actions[:8], *second.actions[:4]])


@needs_vla_eval
def test_the_harness_runs_in_live_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    policy = NotedPolicy()
    with serving(policy) as port:
        (episode,) = harness(tmp_path, port, "vla_eval_toy:Toy", mode="live", hz=50)
    actions = np.array(episode["metrics"]["actions"])
    assert actions.shape == (12, 8)
    chunks = [chunk for ones, seeds, _ in policy.asked for chunk in RandomPolicy().infer_batch(ones, seeds)]
    given = np.concatenate([chunk.actions for chunk in chunks])
    told = [action for action in actions.astype(np.float32) if action.any()]  # before the first answer it holds zeros
    assert told
    assert all((given == action).all(axis=1).any() for action in told)
    assert len(policy.asked) < len(actions)


@needs_vla_eval
@pytest.mark.sim
@pytest.mark.slow
def test_the_harness_vla_eval_finds_the_same_outcome_in_every_scene(
    checkpoint: tuple[Any, Any], tmp_path: Path
) -> None:
    from blm.actors.sim.outcome import RolloutConfig, RolloutItem
    from blm.actors.sim.runner import RolloutRunner
    from blm.actors.sim.world import WorldConfig, parse_cell, seed_range

    policy, description = checkpoint
    policy.name, policy.sees = "blm", True
    cells, steps, episodes = ["panda/PushCube", "panda/PickCube"], 19, 2
    with serving(policy, description) as port:
        reported = harness(
            tmp_path,
            port,
            "blm.actors.remote.vla_eval_cells:BlmCells",
            episodes_per_task=episodes,
            params={"cells": cells, "max_steps": steps},
        )
    theirs = {
        (episode["name"], episode["metrics"]["seed"]): (
            episode["metrics"]["success"],
            episode["steps"],
            episode["metrics"]["positions_m"],
        )
        for episode in reported
    }
    first = seed_range("evaluate").start
    items = [
        RolloutItem(cell=parse_cell(cell), seed=seed, keep=tmp_path / "episode.npz")
        for cell in cells
        for seed in range(first, first + episodes)
    ]
    runner = RolloutRunner(WorldConfig(cells=tuple(cells)), RolloutConfig(max_steps=steps), policy, slots=1)
    finished = runner.run(items)
    runner.close()
    assert theirs == {
        (done.result.cell, done.result.seed): (
            done.result.success,
            done.result.steps,
            [round(float(value), 5) for value in done.episode.object_positions[-1][:6]],
        )
        for done in finished
        if done.episode is not None
    }


@contextmanager
def model_server(chunk: int) -> Iterator[str]:
    """The address of a model server of vla-eval."""
    command = [str(VLA_EVAL / "python"), "tests/vla_eval_server.py", str(chunk)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"vla-eval://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


@needs_vla_eval
def test_a_model_server_of_vla_eval_is_asked_for_whole_chunks(tmp_path: Path) -> None:
    (tmp_path / "mapping.yaml").write_text(
        "robots: [panda]\npictures: {agentview: front}\npicture_format: png\n"
        "state: {state: [0, 1, 2, 3, 4, 5, 6, 7]}\nactions: {rows: 3}\n"
    )
    ours = [observation(number, cameras=("front",), px=16) for number in range(4)]
    with model_server(3) as address:
        client = open_remote(address, tmp_path / "mapping.yaml")
        client.check_world(cameras=("front",), image_px=16, robots=["panda"], execute_steps=3)
        for _ in range(2):  # what is left of a chunk does not leak into the next look
            for one, chunk in zip(ours, client.infer_batch(ours, [0] * 4), strict=True):
                base = one.state[:7] + one.images["front"].mean() + len(one.instruction)
                assert np.allclose(chunk.actions[:, :7], base + 10 * np.arange(3)[:, None], atol=1e-3)
        failing = Observation(images=ours[0].images, state=ours[0].state, instruction="fail", embodiment="panda")
        with pytest.raises(PolicyError, match="told to fail"):
            client.infer_batch([failing], [0])
        assert len(client.infer_batch(ours[:1], [0])[0].actions) == 3
        client.close()
