"""Distributed training checkpoints: whole or not there, and good for any number of workers."""

import shutil

import pytest
import torch
import torch.distributed as dist
from small_toys import train, train_in_turn
from small_workers import on_workers

from blm.model.errors import UserError
from blm.pipelines.finetune import checkpoints


def weights(path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, torch.Tensor]:
    """Weights and averaged weights after eight steps of one worker."""
    folder = tmp_path_factory.mktemp("undisturbed")
    on_workers(train, 1, str(folder / "w.pt"), "ddp", 8, str(folder / "train"))
    return weights(folder / "w.pt")


@pytest.mark.parametrize(("world", "parallel"), [(1, "ddp"), (2, "ddp"), (2, "fsdp")])
def test_stop_and_resume_is_bitwise_the_same(tmp_path, world, parallel):
    """The checkpoint of step 3 knows nothing of a layer that is used from step 4 on."""
    runs = [
        (str(tmp_path / "whole.pt"), parallel, 6, str(tmp_path / "undisturbed")),
        (str(tmp_path / "w.pt"), parallel, 3, str(tmp_path / "train")),
        (str(tmp_path / "w.pt"), parallel, 6, str(tmp_path / "train")),
    ]
    on_workers(train_in_turn, world, runs)
    expected, resumed = weights(tmp_path / "whole.pt"), weights(tmp_path / "w.pt")
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_other_workers_and_another_sharding_go_on_from_it(tmp_path, undisturbed):
    """Two sharded workers, then one, then two replicas, each from where the one before stopped."""
    for world, parallel, until in ((2, "fsdp", 3), (1, "ddp", 6), (2, "ddp", 8)):
        on_workers(train, world, str(tmp_path / "w.pt"), parallel, until, str(tmp_path / "train"))
    resumed = weights(tmp_path / "w.pt")
    assert resumed.keys() == undisturbed.keys()
    for name, tensor in undisturbed.items():
        torch.testing.assert_close(resumed[name], tensor, atol=1e-6, rtol=1e-5)


def test_every_worker_writes_a_part_and_only_the_last_checkpoint_stays(tmp_path):
    runs = [(str(tmp_path / "w.pt"), "fsdp", until, str(tmp_path / "train")) for until in (2, 4)]
    on_workers(train_in_turn, 2, runs)
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["000004"]
    assert len(list((tmp_path / "train/000004").glob("*.distcp"))) == 2


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_frozen_weights_are_not_stored_and_another_model_is_refused(process_group, tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 1000))
    module[1].requires_grad_(False)
    checkpoints.save(tmp_path / "train", 7, {"step": 7}, module, [])
    checkpoint = checkpoints.latest(tmp_path / "train")
    assert checkpoint is not None
    assert checkpoints.read_progress(checkpoint) == {"step": 7}
    assert sum(path.stat().st_size for path in checkpoint.iterdir()) < 8000
    with pytest.raises(UserError, match=r"000007 cannot be continued from"):
        checkpoints.load(checkpoint, torch.nn.Sequential(torch.nn.Linear(9, 9)))


def test_an_unfinished_checkpoint_is_passed_over(tmp_path):
    (tmp_path / "000010").mkdir()
    (tmp_path / ".tmp-checkpoint").mkdir()
    assert checkpoints.latest(tmp_path) is None
    assert checkpoints.latest(tmp_path / "nothing") is None


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torchao compiles its step")
def test_the_state_of_an_eight_bit_optimiser_is_stored_as_it_is(process_group, tmp_path):
    torchao_optim = pytest.importorskip("torchao.optim")

    def make() -> tuple[torch.nn.Module, list[torch.optim.Optimizer]]:
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(128, 128), torch.nn.Linear(128, 64))
        return module, [torchao_optim.AdamW8bit(module.parameters(), lr=1e-2)]

    def steps(module: torch.nn.Module, optimizers: list[torch.optim.Optimizer], first: int, last: int) -> None:
        for step in range(first, last):
            rows = torch.randn(8, 128, generator=torch.Generator().manual_seed(step))
            optimizers[0].zero_grad()
            module(rows).square().mean().backward()
            optimizers[0].step()

    whole, resumed = make(), make()
    steps(*whole, 0, 4)
    checkpoints.save(tmp_path, 4, {}, *whole)
    steps(*whole, 4, 8)
    checkpoint = checkpoints.latest(tmp_path)
    assert checkpoint is not None
    checkpoints.load(checkpoint, *resumed)
    steps(*resumed, 4, 8)
    assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), resumed[0].parameters(), strict=True))
