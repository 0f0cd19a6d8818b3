"""Passes that are repeated from a recording: the same results, whatever the number of rows."""

import logging

import pytest
import torch
from small_policy_batch import PANDA, XARM6, make_batch, make_group, make_policy

from blm.model.captured import ROWS, Captured, CudaGraphs


class Recorded:
    """What CUDA graphs do, done by the CPU: a pass is done again, on the same tensors, into the same tensor."""

    def __init__(self) -> None:
        self.captured = 0

    def __call__(self, once):
        self.captured += 1
        output = once().clone()

        def repeat():
            output.copy_(once())
            return output

        return repeat, output


def policy_and_rows(n: int, robot=PANDA):
    policy = make_policy().eval()
    batch = make_batch(make_group(robot, n, 1))
    group = batch.groups[0]
    return policy, (group.state, batch.intents, batch.mask, torch.randn_like(group.actions))


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 33])
def test_results_are_those_of_the_function_itself(rows: int) -> None:
    policy, tensors = policy_and_rows(rows)
    captured = Captured(lambda name, *given: policy.sample(name, *given, steps=3), Recorded())
    for _ in range(2):
        assert torch.allclose(captured("panda", *tensors), policy.sample("panda", *tensors, steps=3), atol=1e-5)
        tensors = tuple(tensor.flip(0) for tensor in tensors)


def test_there_is_one_recording_for_each_robot_and_size_of_batch() -> None:
    policy, tensors = policy_and_rows(8)
    _, others = policy_and_rows(8, XARM6)
    recorded = Recorded()
    captured = Captured(lambda name, *given: policy.sample(name, *given, steps=2), recorded)
    for rows in (1, 3, 4, 2, 4, 3, 8, 5):
        captured("panda", *(tensor[:rows] for tensor in tensors))
    assert recorded.captured == len([size for size in ROWS if size <= 8])
    captured("xarm6", *others)
    assert recorded.captured == len([size for size in ROWS if size <= 8]) + 1


def test_a_result_stays_when_the_next_is_computed() -> None:
    captured = Captured(lambda name, x: x * 2, Recorded())
    first = captured("", torch.tensor([[1.0]]))
    captured("", torch.tensor([[5.0]]))
    assert first.tolist() == [[2.0]]


def test_what_cannot_be_captured_is_computed_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(once):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    captured = Captured(lambda name, x: x * 2, refuse)
    with caplog.at_level(logging.WARNING):
        for number in (1.0, 2.0):
            assert captured("", torch.tensor([[number]])).tolist() == [[2 * number]]
    assert [record.message for record in caplog.records] == [
        "the policy is computed without CUDA graphs: operation not permitted when stream is capturing"
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_cuda_graphs_give_what_the_policy_gives() -> None:
    policy, tensors = policy_and_rows(5)
    policy, tensors = policy.cuda(), tuple(tensor.cuda() for tensor in tensors)
    captured = Captured(lambda name, *given: policy.sample(name, *given, steps=3), CudaGraphs(torch.device("cuda")))
    for _ in range(2):
        assert torch.allclose(captured("panda", *tensors), policy.sample("panda", *tensors, steps=3), atol=1e-4)
        tensors = tuple(tensor.flip(0) for tensor in tensors)
