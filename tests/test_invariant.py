"""A row's answer is the same to the last bit whatever else is in its batch, and the layers that see to it compute what
PyTorch's own do."""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_diffusion import SMALL, small_contract, small_network
from small_policy_batch import PUSHER
from torch import Tensor, nn
from torch.nn import functional as F

from blm.model.acting import ActingPolicy
from blm.model.checkpoint import Contract, write_checkpoint
from blm.model.diffusion_policy import DiffusionPolicy, write_diffusion_policy
from blm.model.errors import UserError
from blm.model.intents import IntentExtractor
from blm.model.invariant import linear, make_invariant
from blm.model.layout import layout_of
from blm.model.normalize import EmbodimentStatistics, Quantiles
from blm.model.options import PolicyConfig
from blm.model.predictor import load_policy_for
from blm.model.types import ActionChunk, ActionPrefix, Observation
from blm.pipelines.benchmarks.invariance import bench_invariance

SIDE = 56
ROBOTS = {"panda": 8, "xarm6": 7, "pusher": 2}
TEXTS = ("push", "pick up the red cube", "push the cube to the goal, and then pull it back to where it was")
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(40, 24), (40,)),
    "linear over tokens": (lambda: nn.Linear(40, 24, bias=False), (5, 40)),
    "silu": (nn.SiLU, (33,)),
    "mish": (nn.Mish, (33,)),
    "windows": (lambda: nn.Conv1d(6, 10, 5, padding=2), (6, 16)),
    "windows apart": (lambda: nn.Conv1d(6, 10, 3, stride=2, padding=1), (6, 16)),
    "points": (lambda: nn.Conv1d(6, 10, 1), (6, 16)),
    "doubled": (lambda: nn.ConvTranspose1d(10, 6, 4, stride=2, padding=1), (10, 8)),
    "picture": (lambda: nn.Conv2d(3, 8, 5, stride=2, padding=2, bias=False), (3, 28, 28)),
    "picture of points": (lambda: nn.Conv2d(8, 16, 1), (8, 14, 14)),
    "groups": (lambda: nn.GroupNorm(2, 8), (8, 14, 14)),
}


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_pytorchs_own_and_its_rows_do_not_know_of_each_other(name: str, threads: int) -> None:
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    plain = make()
    own = nn.Sequential(copy.deepcopy(plain))
    make_invariant(own)
    assert type(own[0]) is not type(plain)
    x = 3 * torch.randn(35, *shape)
    if len(shape) == 3:
        x = x.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        together = own(x)
        torch.testing.assert_close(together, plain(x), rtol=1e-5, atol=1e-5)
        for rows in ([0], [34], [7, 3], [1, 2, 30], list(range(5, 12)), list(range(17)), list(range(33))):
            assert torch.equal(own(x[rows]), together[rows]), rows


def test_a_product_is_differentiable_by_what_enters(threads: int) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(24, 40), torch.randn(24)
    x, pull = torch.randn(6, 5, 40), torch.randn(6, 5, 24)

    def gradient(product: Callable[[Tensor, Tensor, Tensor], Tensor], rows: slice) -> Tensor:
        start = x[rows].clone().requires_grad_(True)
        (found,) = torch.autograd.grad(product(start, weight, bias), start, pull[rows])
        return found

    whole = gradient(linear, slice(None))
    torch.testing.assert_close(whole, gradient(F.linear, slice(None)))
    assert torch.equal(gradient(linear, slice(2, 3)), whole[2:3])


# ------------------------------------------------------------------------------------------------------------ policies


def statistics(dims: int) -> EmbodimentStatistics:
    bounds = Quantiles(low=(-1.0,) * dims, high=(1.0,) * dims)
    return EmbodimentStatistics(state=bounds, action=bounds)


def write_ours(folder: Path, mllm: Path, precision: str) -> Path:
    extractor = IntentExtractor(mllm, layer=2, max_text_tokens=64)
    contract = Contract(
        policy=PolicyConfig(width=36, blocks=2, heads=2, latents=3, head_hidden=20, future_block=2),
        layouts=(layout_of("panda"), layout_of("xarm6"), PUSHER),
        layer=2,
        max_text_tokens=64,
        intent_width=extractor.width,
        max_tokens=extractor.length([(SIDE, SIDE)]),
        cameras=("front",),
        image_px=SIDE,
        statistics={robot: statistics(dims) for robot, dims in ROBOTS.items()},
        intents_fingerprint=extractor.fingerprint,
        intents_precision=precision,  # type: ignore[arg-type]
        provenance={"made_by": "tests"},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = {k: w + 0.05 * torch.randn_like(w) for k, w in contract.build_policy().state_dict().items()}
    write_checkpoint(folder, mllm, contract, weights)
    return folder


def write_baseline(folder: Path) -> Path:
    contract = replace(
        small_contract(("panda", "xarm6"), config=replace(SMALL, condition=36, encoder_widths=(16, 24)), image_px=SIDE),
        layouts=(layout_of("panda"), layout_of("xarm6"), PUSHER),
        statistics={robot: statistics(dims) for robot, dims in ROBOTS.items()},
    )
    write_diffusion_policy(folder, contract, small_network(contract).state_dict())
    return folder


@pytest.fixture(scope="module", params=["float32", "bfloat16", "diffusion_policy"])
def policy(request: pytest.FixtureRequest, tiny_mllm: Path, tmp_path_factory: pytest.TempPathFactory) -> ActingPolicy:
    folder = tmp_path_factory.mktemp("invariant") / "model"
    if request.param == "diffusion_policy":
        return load_policy_for(write_baseline(folder))
    return load_policy_for(write_ours(folder, tiny_mllm, request.param))


def observation(seed: int) -> Observation:
    """Robot, task, picture and state drawn from a seed."""
    rng = np.random.default_rng(seed)
    robot = str(rng.choice(list(ROBOTS)))
    return Observation(
        images={"front": rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)},
        state=rng.uniform(-1, 1, ROBOTS[robot]).astype(np.float32),
        instruction=str(rng.choice(TEXTS)),
        embodiment=robot,
    )


def bits(chunks: list[ActionChunk]) -> list[bytes]:
    return [chunk.actions.tobytes() for chunk in chunks]


def test_rows_of_random_batches_have_the_bits_they_have_alone(policy: ActingPolicy, threads: int) -> None:
    seen = [observation(seed) for seed in range(14)]
    alone = [bits(policy.infer_batch([one], [seed]))[0] for seed, one in enumerate(seen)]
    assert len(set(alone)) == len(alone)
    rng = np.random.default_rng(threads)
    for size in (2, 3, 5, 8, 14, 41):
        rows = rng.choice(len(seen), size, replace=size > len(seen))
        found = bits(policy.infer_batch([seen[row] for row in rows], [int(row) for row in rows]))
        assert found == [alone[row] for row in rows], f"batch of {size}"


def test_rows_with_and_without_a_prefix_have_the_bits_they_have_alone(policy: ActingPolicy) -> None:
    seen = [observation(seed) for seed in range(6)]
    rng = np.random.default_rng(0)
    prefixes = [
        ActionPrefix(actions=rng.uniform(-1, 1, (9, len(one.state))).astype(np.float32), frozen=3) if row % 2 else None
        for row, one in enumerate(seen)
    ]
    if isinstance(policy, DiffusionPolicy):
        with pytest.raises(UserError, match="cannot go on from a chunk in execution"):
            policy.infer_batch(seen, range(6), prefixes)
        return
    plain = bits(policy.infer_batch(seen, range(6)))
    together = bits(policy.infer_batch(seen, range(6), prefixes))
    for row, one in enumerate(seen):
        assert together[row] == bits(policy.infer_batch([one], [row], [prefixes[row]]))[0]
        assert (together[row] == plain[row]) == (prefixes[row] is None)


def test_the_benchmark_measures_both_sides_and_finds_no_row_that_differs(tiny_mllm: Path, tmp_path: Path) -> None:
    result = bench_invariance(0.01, write_ours(tmp_path / "model", tiny_mllm, "float32"))
    assert json.loads(json.dumps(result)) == result
    found = result["differing"]["checkpoint"]
    assert (found["invariant"]["rows"], found["invariant"]["most"]) == (0, 0.0)
    assert found["invariant"]["of"] == found["plain"]["of"] > 100
    rates = result["results"]["checkpoint"]["10"]
    assert result["ratio"] == pytest.approx(rates["invariant_rows_per_s"] / rates["plain_rows_per_s"], rel=0.01)
