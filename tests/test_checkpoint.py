"""The deployable checkpoint and the policy loaded from it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_policy_batch import PUSHER
from transformers import AutoModelForImageTextToText

from blm.model.checkpoint import Contract, load_policy, read_contract, write_checkpoint
from blm.model.checkpoint_files import read_folder, write_folder
from blm.model.embodiments import get_embodiment
from blm.model.errors import UserError
from blm.model.intents import IntentExtractor
from blm.model.layout import layout_of
from blm.model.normalize import EmbodimentStatistics, Quantiles
from blm.model.options import PolicyConfig
from blm.model.predictor import BlmPolicy, load_policy_for
from blm.model.training import cast_linears
from blm.model.types import ActionPrefix, Observation

SIDE = 56
CAMERAS = ("front",)


@pytest.fixture(scope="module")
def checkpoint(tiny_mllm, tmp_path_factory):
    """A checkpoint with fresh weights for three robots of different dimensions, one of them foreign."""
    extractor = IntentExtractor(tiny_mllm, layer=2, max_text_tokens=48)

    def statistics(dims: int) -> EmbodimentStatistics:
        low, high = (-1.0,) * dims, (1.0,) * dims
        return EmbodimentStatistics(
            state=Quantiles(low=low, high=high), action=Quantiles(low=(low,) * 16, high=(high,) * 16)
        )

    contract = Contract(
        policy=PolicyConfig(width=32, blocks=4, heads=2, latents=3, head_hidden=32, future_block=2),
        layouts=(layout_of("panda"), layout_of("xarm6"), PUSHER),
        layer=2,
        max_text_tokens=48,
        intent_width=extractor.width,
        max_tokens=extractor.length([(SIDE, SIDE)]),
        cameras=CAMERAS,
        image_px=SIDE,
        statistics={"panda": statistics(8), "xarm6": statistics(7), "pusher": statistics(2)},
        intents_fingerprint=extractor.fingerprint,
        provenance={"cells": ["panda/PushCube"]},
    )
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    weights = {name: w + 0.05 * torch.randn_like(w) for name, w in contract.build_policy().state_dict().items()}
    write_checkpoint(folder, tiny_mllm, contract, weights)  # fresh gates are zero, and would hide what is behind them
    return folder


def observation(seed: int, embodiment: str = "panda", side: int = SIDE, camera: str = "front") -> Observation:
    rng = np.random.default_rng(seed)
    return Observation(
        images={camera: rng.integers(0, 255, (side, side, 3), dtype=np.uint8)},
        state=rng.uniform(0, 1, {"panda": 8, "xarm6": 7, "pusher": 2}[embodiment]).astype(np.float32),
        instruction="push the cube",
        embodiment=embodiment,
    )


def test_two_loads_give_identical_chunks(checkpoint):
    first, again = (BlmPolicy.load(checkpoint) for _ in range(2))
    one, other = (policy.infer_batch([observation(1)], [5])[0] for policy in (first, again))
    assert np.array_equal(one.actions, other.actions)
    assert one.actions.shape == (16, 8)
    assert one.actions.dtype == np.float32
    assert one.control_hz == 20
    assert 0 <= one.actions[:, -1].min() <= one.actions[:, -1].max() <= 1


@pytest.mark.parametrize("goes_on", [False, True])
def test_with_products_in_bfloat16_as_on_a_gpu_chunks_are_nearly_the_same(checkpoint, monkeypatch, goes_on: bool):
    policy = BlmPolicy.load(checkpoint, invariant=False)
    prefix = ActionPrefix(actions=np.full((6, 8), 0.2, dtype=np.float32), frozen=2) if goes_on else None
    asked = ([observation(1), observation(2)], [1, 2], [prefix, None])
    full = policy.infer_batch(*asked)
    monkeypatch.setattr(policy, "_products", torch.bfloat16)
    cast_linears(policy._policy, torch.bfloat16)
    half = policy.infer_batch(*asked)
    for one, other in zip(full, half, strict=True):
        assert np.abs(one.actions - other.actions).max() < 0.05
        assert not np.array_equal(one.actions, other.actions)


def test_what_is_loaded_samples_to_the_bit_what_was_saved(checkpoint, tiny_mllm, tmp_path):
    contract = read_contract(checkpoint)
    saved = contract.build_policy().eval()
    with torch.no_grad():
        for parameter in saved.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    write_checkpoint(tmp_path / "model", tiny_mllm, contract, saved.state_dict())
    loaded = load_policy(tmp_path / "model", contract)
    intents = torch.randn(2, contract.max_tokens, contract.intent_width)
    for layout in contract.layouts:
        state, noise = torch.randn(2, layout.state_dim), torch.randn(2, 16, layout.action_dim)
        mask = torch.ones(intents.shape[:2], dtype=torch.bool)
        one, other = (policy.sample(layout.name, state, intents, mask, noise, 4) for policy in (saved, loaded))
        assert torch.equal(one, other)


def test_robots_mix_in_a_batch_and_rows_do_not_depend_on_it(checkpoint):
    policy = BlmPolicy.load(checkpoint)
    seen = [observation(1), observation(2, "xarm6"), observation(3), observation(4, "pusher")]
    together = policy.infer_batch(seen, [1, 2, 3, 4])
    for row, seed, chunk in zip(seen, (1, 2, 3, 4), together, strict=True):
        alone = policy.infer_batch([row], [seed])[0]
        assert np.allclose(alone.actions, chunk.actions, atol=1e-5)
    assert together[1].actions.shape == (16, 7)
    assert together[3].actions.shape == (16, 2)
    assert (together[3].control_hz, together[0].control_hz) == (PUSHER.control_hz, 20)


def test_the_seed_decides_the_noise(checkpoint):
    policy = BlmPolicy.load(checkpoint)
    one, same, other = policy.infer_batch([observation(1)] * 3, [1, 1, 2])
    assert np.allclose(one.actions, same.actions, atol=1e-6)
    assert not np.allclose(one.actions, other.actions, atol=1e-3)


def test_reset_starts_the_noise_over(checkpoint):
    policy = BlmPolicy.load(checkpoint)
    first = policy.infer(observation(1)).actions
    second = policy.infer(observation(1)).actions
    policy.reset()
    assert np.array_equal(policy.infer(observation(1)).actions, first)
    assert not np.allclose(first, second, atol=1e-3)


def test_transformers_loads_the_same_folder(checkpoint):
    assert AutoModelForImageTextToText.from_pretrained(checkpoint).config.model_type == "qwen2_5_vl"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"side": 84}, "84x84 px; resize it to 56x56"),
        ({"camera": "wrist"}, "lacks camera 'front'"),
    ],
)
def test_observations_outside_the_contract_are_refused(checkpoint, wrong, message):
    with pytest.raises(UserError, match=message):
        BlmPolicy.load(checkpoint).infer(observation(1, **wrong))


def test_malformed_observations_are_refused():
    good = observation(1)
    with pytest.raises(UserError, match=r"state has shape \(3,\); panda needs \[8\]"):
        Observation(images=good.images, state=np.zeros(3, np.float32), instruction="go", embodiment="panda")
    with pytest.raises(UserError, match="NaN"):
        Observation(images=good.images, state=np.full(8, np.nan, np.float32), instruction="go", embodiment="panda")
    with pytest.raises(UserError, match="instruction is empty"):
        Observation(images=good.images, state=good.state, instruction=" ", embodiment="panda")
    with pytest.raises(UserError, match="NaN"):
        Observation(images=good.images, state=np.full(3, np.inf, np.float32), instruction="go", embodiment="pusher")
    with pytest.raises(UserError, match="one list of numbers"):
        Observation(images=good.images, state=np.zeros((1, 2), np.float32), instruction="go", embodiment="pusher")
    with pytest.raises(UserError, match="uint8"):
        Observation(
            images={"front": np.zeros((56, 56), np.uint8)}, state=good.state, instruction="go", embodiment="panda"
        )


def test_a_folder_that_is_no_checkpoint_is_told(checkpoint, tiny_mllm, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        BlmPolicy.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no blm.json"):
        BlmPolicy.load(tiny_mllm)


def test_altered_contracts_and_damaged_weights_are_told(checkpoint, tmp_path):
    for change in ("statistics", "layouts"):
        data = json.loads((checkpoint / "blm.json").read_text())
        if change == "statistics":
            data["statistics"]["panda"]["state"]["low"][0] = -9.0
        else:
            data["layouts"][0]["relative_to"][0] = -1
        altered = tmp_path / change
        altered.mkdir()
        (altered / "blm.json").write_text(json.dumps(data))
        with pytest.raises(UserError, match="do not match their hash"):
            read_contract(altered)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in checkpoint.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    weights = damaged / "policy.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"policy.safetensors cannot be loaded"):
        BlmPolicy.load(damaged)
    weights.unlink()
    with pytest.raises(UserError, match=r"policy.safetensors cannot be loaded"):
        BlmPolicy.load(damaged)


def test_parts_of_two_checkpoints_do_not_mix(checkpoint, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(checkpoint, mixed)
    weights = load_file(mixed / "policy.safetensors")
    weights["no_state"] = weights["no_state"] + 1
    save_file(weights, mixed / "policy.safetensors")
    with pytest.raises(UserError, match="not of one checkpoint"):
        BlmPolicy.load(mixed)
    shutil.copyfile(checkpoint / "policy.safetensors", mixed / "policy.safetensors")
    mllm = load_file(mixed / "model.safetensors")
    next(iter(mllm.values())).view(-1)[0] += 1
    (mixed / "model.safetensors").unlink()  # it may be a link to the original
    save_file(mllm, mixed / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="not those the policy was trained on"):
        BlmPolicy.load(mixed)


def test_the_index_names_the_models_own_weights_alone(checkpoint):
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())
    with safe_open(checkpoint / "model.safetensors", "pt") as tensors:
        assert index["weight_map"] == dict.fromkeys(tensors.keys(), "model.safetensors")


def test_a_checkpoint_is_replaced_as_a_whole_and_leaves_nothing_behind(checkpoint, tiny_mllm, tmp_path):
    contract = read_contract(checkpoint)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "leftover").write_text("of a killed attempt")
    write_checkpoint(folder, tiny_mllm, contract, contract.build_policy().state_dict())
    assert read_contract(folder) == contract
    assert not (folder / "leftover").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_joint_targets_stay_within_the_robots_limits(checkpoint):
    policy = BlmPolicy.load(checkpoint)
    body = get_embodiment("panda")
    at_the_end = np.array([*body.joint_upper_rad, 1.0], dtype=np.float32)
    actions = policy.infer(replace(observation(1), state=at_the_end)).actions
    assert (actions[:, :-1] <= np.float32(body.joint_upper_rad)).all()
    assert (actions[:, :-1] == np.float32(body.joint_upper_rad)).any()


def test_no_observations_need_no_answer(checkpoint):
    assert BlmPolicy.load(checkpoint).infer_batch([], []) == []


def test_a_checkpoint_opens_by_its_kind_with_the_chunks_it_had(checkpoint):
    policy = load_policy_for(checkpoint, euler_steps=2)
    assert isinstance(policy, BlmPolicy)
    one, other = (p.infer_batch([observation(1)], [3])[0] for p in (policy, BlmPolicy.load(checkpoint, euler_steps=2)))
    assert np.array_equal(one.actions, other.actions)


def test_folders_of_other_kinds_and_formats_are_told(checkpoint, tmp_path):
    write_folder(tmp_path / "other", {"kind": "oracle", "embodiments": ["panda"]}, {"w": torch.zeros(1)})
    assert read_folder(tmp_path / "other", "oracle")["embodiments"] == ["panda"]
    with pytest.raises(UserError, match="of kind 'oracle', not 'blm'"):
        read_contract(tmp_path / "other")
    with pytest.raises(UserError, match="'oracle'; this version knows blm and diffusion_policy"):
        load_policy_for(tmp_path / "other")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "blm.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(UserError, match="format 1; this version reads format 2"):
        read_contract(tmp_path / "old")


def test_a_contract_without_or_with_the_wrong_statistics_cannot_be_made(checkpoint):
    contract = read_contract(checkpoint)
    with pytest.raises(UserError, match="pusher has no statistics; collect demonstrations"):
        replace(contract, statistics={name: contract.statistics[name] for name in ("panda", "xarm6")})
    with pytest.raises(UserError, match="panda: statistics of 7 state values, but the robot has 8"):
        replace(contract, statistics={**contract.statistics, "panda": contract.statistics["xarm6"]})
    with pytest.raises(UserError, match="panda: statistics of chunks of 16 actions, but the policy's have 8"):
        replace(contract, policy=replace(contract.policy, chunk=8))


def test_guidance_needs_a_policy_trained_for_it(checkpoint):
    with pytest.raises(UserError, match="guidance_dropout above 0"):
        load_policy_for(checkpoint, guidance=1.5)


def test_a_foreign_robots_state_is_checked_by_its_own_layout(checkpoint):
    with pytest.raises(UserError, match="state has 3 values; pusher needs 2: x, y"):
        BlmPolicy.load(checkpoint).infer(replace(observation(1, "pusher"), state=np.zeros(3, np.float32)))


def test_a_robot_it_was_not_trained_for_is_refused(checkpoint):
    seen = Observation(
        images=observation(1).images, state=np.zeros(8, np.float32), instruction="go", embodiment="xarm7"
    )
    with pytest.raises(UserError, match="not trained for 'xarm7'; did you mean 'xarm6'"):
        BlmPolicy.load(checkpoint).infer(seen)
