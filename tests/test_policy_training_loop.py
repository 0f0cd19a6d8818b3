"""The training loop of Stage II, in one process: it learns, a killed one continues to the bit, and so does one that
runs the MLLM in every step instead of reading the cache."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from small_dataset import WORLD, acting_for_both
from small_intents import write_datasets, write_intents

from blm.model.errors import UserError
from blm.model.options import PolicyConfig
from blm.pipelines.intents import open_caches
from blm.pipelines.policy_training import loop
from blm.pipelines.policy_training.regimes import Scope
from blm.pipelines.policy_training.weights import Weights
from blm.pipelines.stage2 import Stage2Config, loop_config
from blm.pipelines.tracking import Tracker
from blm.pipelines.windows.dataset import datasets_of
from blm.pipelines.windows.store import prepare_windows
from blm.pipelines.workspace import ResourceConfig, StageContext

CPU = torch.device("cpu")
POLICY = PolicyConfig(width=32, blocks=4, heads=2, latents=3, head_hidden=32, future_block=2, dropout=0.1)
CONFIG = Stage2Config(
    policy=POLICY,
    steps=60,
    batch=16,
    learning_rate=3e-3,
    warmup=5,
    validate_every=30,
    checkpoint_every_s=0.0,
    rollouts_every=30,
    precision="float32",
)
CELLS = ("panda/PushCube", "xarm6/PushCube")


@pytest.fixture(autouse=True)
def process_group(tmp_path: Path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def prepared(tiny_mllm, tmp_path_factory) -> StageContext:
    """A context whose windows are made."""
    root = tmp_path_factory.mktemp("loop")
    (root / "stage1").mkdir()
    (root / "stage1/model").symlink_to(tiny_mllm)
    render = write_datasets(root / "render", ("panda", "xarm6"), episodes=10)
    context = StageContext(
        out=root / "stage2-0",
        inputs={
            "render": render,
            "stage1": root / "stage1",
            "intents": write_intents(root / "intents", render, tiny_mllm),
        },
        world=WORLD,
        seed=0,
        tracker=Tracker(),
        resources=ResourceConfig(),
    )
    prepare_windows(datasets_of(render), context.out / "windows", chunk=POLICY.chunk, workers=0)
    return context


def told(context: StageContext, folder: Path, config: Stage2Config = CONFIG, **changed: object) -> dict:
    """What the driver tells a worker that trains in `folder`."""
    datasets = datasets_of(context.inputs["render"])
    caches = open_caches(context.inputs["intents"], context.inputs["stage1"] / "model", datasets, context.world.cameras)
    scope = Scope(name="all", folder="model", robots=tuple(datasets), cells=CELLS)
    return loop_config(config, context, scope, datasets, caches) | {"folder": str(folder)} | changed


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


class KilledError(Exception):
    """Stands for the death of the process."""


def killed_at(monkeypatch, call: int) -> None:
    """Make the `call`-th update of the average raise."""
    original, calls = Weights.update_average, [0]

    def counting(self, *arguments):
        calls[0] += 1
        if calls[0] == call:
            raise KilledError
        return original(self, *arguments)

    monkeypatch.setattr(Weights, "update_average", counting)


def test_it_learns_and_a_killed_one_goes_on_to_the_bit(prepared, tmp_path, monkeypatch):
    whole, again = tmp_path / "whole", tmp_path / "again"
    loop.run(told(prepared, whole), CPU)
    undisturbed = metrics(whole)
    assert undisturbed["curve"][-1]["flow"] < undisturbed["curve"][0]["flow"]
    assert [point["step"] for point in undisturbed["validation"]] == [30, 60]
    assert {"val_flow", "val_future", "val_copy", "val_target_std"} < set(undisturbed["validation"][-1])

    with monkeypatch.context() as patch:
        killed_at(patch, 47)
        with pytest.raises(KilledError):
            loop.run(told(prepared, again), CPU)
    assert [path.name for path in sorted((again / "candidates").iterdir())] == ["step-000030"]
    loop.run(told(prepared, again), CPU)
    resumed = metrics(again)
    assert resumed["validation"] == undisturbed["validation"]
    for ours, theirs in zip(resumed["curve"], undisturbed["curve"], strict=True):
        assert (ours["flow"], ours["future"]) == (theirs["flow"], theirs["future"])
    for step in (30, 60):
        name = f"candidates/step-{step:06d}/policy.safetensors"
        assert (whole / name).read_bytes() == (again / name).read_bytes()


def test_the_last_candidate_acts_for_both_robots(prepared, tmp_path):
    loop.run(told(prepared, tmp_path / "out", replace(CONFIG, steps=5)), CPU)
    policy = acting_for_both(tmp_path / "out/candidates/step-000005")
    assert policy.contract.provenance["step"] == 5
    assert policy.contract.provenance["cells"] == list(CELLS)


def test_running_the_model_in_every_step_gives_the_losses_of_the_cache(prepared, tmp_path):
    config = replace(CONFIG, steps=6, rollouts_every=0)
    loop.run(told(prepared, tmp_path / "cached", config), CPU)
    loop.run(told(prepared, tmp_path / "live", config, caches={}), CPU)
    cached, live = metrics(tmp_path / "cached"), metrics(tmp_path / "live")
    assert live["curve"][-1]["flow"] == cached["curve"][-1]["flow"]
    assert live["validation"] == cached["validation"]


def test_a_policy_without_future_tokens_needs_no_future(prepared, tmp_path):
    config = replace(CONFIG, steps=6, policy=replace(POLICY, future_weight=0.0), temperature=0.5, draws=2)
    loop.run(told(prepared, tmp_path / "out", config), CPU)
    assert metrics(tmp_path / "out")["curve"][-1]["future"] == 0


def test_a_checkpoint_of_another_model_is_refused(prepared, tmp_path, monkeypatch):
    killed_at(monkeypatch, 25)
    with pytest.raises(KilledError):
        loop.run(told(prepared, tmp_path / "out"), CPU)
    wider = replace(CONFIG, policy=replace(POLICY, width=64))
    with pytest.raises(UserError, match=r"checkpoint\.pt cannot be continued from"):
        loop.run(told(prepared, tmp_path / "out", wider), CPU)


def test_a_loss_that_is_no_longer_finite_ends_the_run_and_leaves_the_checkpoint_alone(prepared, tmp_path):
    config = replace(CONFIG, learning_rate=1e30, warmup=0, clip_norm=1e30)
    with pytest.raises(UserError, match=r"no longer finite .* lower stage2\.learning_rate"):
        loop.run(told(prepared, tmp_path / "out", config), CPU)
    assert not (tmp_path / "out/metrics.json").exists()
