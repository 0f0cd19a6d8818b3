"""One optimisation step: micro batches and workers change nothing, and a spoilt step leaves no trace."""

import pytest
import torch
import torch.distributed as dist
from small_workers import on_workers

from blm.model.errors import UserError
from blm.model.optim import ScheduledOptimizers, make_optimizers
from blm.pipelines import workers
from blm.pipelines.finetune.step import Taken, check_skipped, take_step

ROWS = 8


class Network(torch.nn.Module):
    """Two sums of losses over the rows it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(6, 12)
        self.out = torch.nn.Linear(12, 3)

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = self.out(self.layer(rows).tanh())
        return out.square().sum(), out.abs().sum()


def steps(out: str, parallel: workers.Parallel, micro: int, spoilt: int = -1) -> None:
    """Four steps over the same rows; rank 0 saves weights and what each step came to."""
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    network = Network()
    wrapped = workers.parallelise(network, parallel, [network.layer])
    optimizers = ScheduledOptimizers(
        make_optimizers(network, learning_rate=0.03, weight_decay=0.1), steps=4, warmup=1, floor=0.1
    )
    taken: list[Taken] = []
    for step in range(4):
        rows = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(step))
        if step == spoilt:
            rows[ROWS - 1, 0] = torch.nan  # of the last worker's rows
        own = rows.tensor_split(world)[rank].tensor_split(micro)
        losses = [lambda part=part: wrapped(part) for part in own]
        taken.append(take_step(wrapped, optimizers, losses, (1 / ROWS, 0.5 / ROWS), clip_norm=0.5))
    whole = {name: workers.whole_tensor(tensor) for name, tensor in network.named_parameters()}
    if rank == 0:
        torch.save(
            whole | {"sums": torch.stack([t.sums for t in taken]), "norms": torch.tensor([t.norm for t in taken])}, out
        )


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, torch.Tensor]:
    """One worker, one micro batch."""
    out = tmp_path_factory.mktemp("alone") / "w.pt"
    on_workers(steps, 1, str(out), "ddp", 1)
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize(("world", "parallel", "micro"), [(1, "ddp", 4), (2, "ddp", 2), (2, "fsdp", 2), (3, "ddp", 1)])
def test_workers_and_micro_batches_change_only_the_order_of_sums(tmp_path, alone, world, parallel, micro):
    on_workers(steps, world, str(tmp_path / "w.pt"), parallel, micro)
    found = torch.load(tmp_path / "w.pt", weights_only=True)
    assert found.keys() == alone.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-5)


def test_a_step_without_finite_gradients_is_skipped_by_every_worker(tmp_path, alone):
    on_workers(steps, 2, str(tmp_path / "w.pt"), "ddp", 1, 2)
    found = torch.load(tmp_path / "w.pt", weights_only=True)
    assert torch.isfinite(found["norms"]).tolist() == [True, True, False, True]
    assert all(torch.isfinite(found[name]).all() for name in ("layer.weight", "out.weight"))
    torch.testing.assert_close(found["sums"][:2], alone["sums"][:2], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found["sums"][3], alone["sums"][3])


def test_too_many_skipped_steps_end_the_run():
    check_skipped(3, 3, 100)
    with pytest.raises(UserError, match=r"4 steps up to step 100 .* stage1.max_skipped"):
        check_skipped(4, 3, 100)
