"""The policy as a service: observations of many robots, answered in batches.

`Batcher` is plain Python over a policy; `Actions` wraps it for Ray Serve.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import serve

from blm.model.errors import UserError
from blm.model.predictor import BlmPolicy
from blm.model.types import Observation
from blm.serve.config import ActionsConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One observation with the seed of its noise."""

    observation: Observation
    seed: int
    asked_s: float
    """Wall clock when it reached the server (`time.time`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A chunk, or why there is none."""

    actions: np.ndarray | None = None
    """float32 [H, A]."""
    names: tuple[str, ...] = ()
    """What the A numbers are."""
    control_hz: int = 0
    refusal: str = ""
    """What is wrong with the observation."""
    queue_ms: float = 0.0
    infer_ms: float = 0.0
    batch: int = 0


class Batcher:
    """Answers questions that came together, so that one bad observation spoils only its own answer."""

    def __init__(self, policy: BlmPolicy) -> None:
        self._policy = policy

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer a question, in order. Observations with pictures of one kind share a forward pass."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for row, question in enumerate(questions):
            shapes = tuple((name, image.shape) for name, image in sorted(question.observation.images.items()))
            groups.setdefault(shapes, []).append(row)
        answers: dict[int, Answer] = {}
        for rows in groups.values():
            for row, answer in zip(rows, self._together([questions[row] for row in rows]), strict=True):
                answers[row] = answer
        return [answers[row] for row in range(len(questions))]

    def _together(self, questions: Sequence[Question]) -> list[Answer]:
        began = time.time()
        clock = time.perf_counter()
        try:
            chunks = self._policy.infer_batch([q.observation for q in questions], [q.seed for q in questions])
        except UserError as error:
            if len(questions) == 1:
                return [Answer(refusal=str(error))]
            return [self._together([question])[0] for question in questions]
        infer_ms = 1e3 * (time.perf_counter() - clock)
        return [
            Answer(
                actions=chunk.actions,
                names=self._policy.contract.layout(question.observation.embodiment).action_names,
                control_hz=chunk.control_hz,
                queue_ms=1e3 * max(began - question.asked_s, 0.0),
                infer_ms=infer_ms,
                batch=len(questions),
            )
            for chunk, question in zip(chunks, questions, strict=True)
        ]


class Actions:
    """`Batcher` in a Ray Serve replica: one forward pass at a time; what comes meanwhile makes the next batch."""

    def __init__(self, folder: str, config: ActionsConfig, device: str) -> None:
        policy = BlmPolicy.load(folder, device=device, dtype=getattr(torch, config.dtype))
        self._batcher = Batcher(policy)
        self._lock = asyncio.Lock()
        self.infer.set_max_batch_size(config.max_batch)
        self.infer.set_batch_wait_timeout_s(config.batch_wait_ms / 1e3)

    @serve.batch
    async def infer(self, questions: list[Question]) -> list[Answer]:
        """Called with one question by a client, run with a batch of them."""
        async with self._lock:
            return await asyncio.to_thread(self._batcher.answer, questions)

    async def ready(self) -> bool:
        """Answers once the policy is loaded."""
        return True


def make_actions(folder: Path, config: ActionsConfig, device: str) -> Any:
    """The bound deployment that answers `Question`s from a checkpoint folder on a device."""
    deployment = serve.deployment(
        Actions,
        name="actions",
        max_ongoing_requests=2 * config.max_batch,
        max_queued_requests=config.max_queued,
        max_constructor_retry_count=1,  # what fails to load once fails again, after another minute
        autoscaling_config={
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": config.max_batch,
        },
        ray_actor_options={"num_cpus": 1},
    )
    return deployment.bind(str(folder), config, device)
