"""The batches of Stage I's steps: which conversations, on which worker, packed how; decoded ahead of their use.

Everything about a step follows from (seed, step) and the number of workers, so that a resumed run takes what it would
have taken.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch.distributed as dist

from blm.model.chat_encoder import ChatEncoder
from blm.model.errors import UserError
from blm.model.packing import EncodedRow, PackedBatch, pack
from blm.model.prompts import IGNORE_INDEX
from blm.pipelines.ahead import ahead
from blm.pipelines.finetune.plan import Plan, imbalance, padding_share, plan
from blm.pipelines.finetune.row_store import RowStore
from blm.pipelines.mixture import Stream
from blm.pipelines.stage1 import Stage1Config

STEPS_AHEAD = 2
ROUND_TO = 64
"""Packed sequences are filled up to a multiple of so many tokens: on a CPU a matrix kernel is compiled for every new
length, which can take longer than the step itself.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """The vision warm-up, or the conversations."""

    name: str
    steps: int
    batch: int
    """Conversations a step, over all workers."""
    first_step: int
    """Place of its first step on the curve."""
    vision_only: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class StepBatches:
    """What a worker needs for one step."""

    step: int
    micro: Sequence[PackedBatch]
    """This worker's micro batches, on the CPU; every worker has equally many."""
    rows: int
    """Conversations of the whole step, over all workers; so are the following."""
    tokens: int
    answers: int
    """Tokens that carry loss."""
    known: int
    """Pictures whose true points are known."""
    padding_saved: float
    """Share of a padded batch's tokens that would be padding."""
    imbalance: float
    """The busiest worker's tokens in units of the mean."""


class Batches:
    """All steps of a phase, for one worker."""

    def __init__(
        self,
        rows: RowStore,
        stream: Stream,
        phase: Phase,
        encoder: ChatEncoder,
        *,
        pool: np.ndarray | None = None,
        micro_tokens: int,
        rank: int,
        world: int,
    ) -> None:
        """pool: the rows that `stream` numbers; all by default. micro_tokens: bound of a micro batch."""
        self._rows, self._stream, self._phase, self._pool = rows, stream, phase, pool
        self._micro_tokens, self._rank, self._world = micro_tokens, rank, world
        self._pad_token_id = encoder.pad_token_id
        self._filler = _filler(encoder)

    def chosen(self, step: int) -> tuple[np.ndarray, Plan]:
        """The rows of a step, int64 [batch], and how they are dealt."""
        places = self._stream.rows(step * self._phase.batch, self._phase.batch)
        indices = places if self._pool is None else self._pool[places]
        return indices, plan(self._rows.lengths[indices].tolist(), self._world, self._micro_tokens)

    def make(self, step: int) -> StepBatches:
        """One step, its pictures decoded."""
        indices, dealt = self.chosen(step)
        lengths = self._rows.lengths[indices]
        return StepBatches(
            step=step,
            micro=[self._pack([self._rows[int(indices[i])] for i in part]) for part in dealt[self._rank]],
            rows=len(indices),
            tokens=len(indices) if self._phase.vision_only else int(lengths.sum()),  # of a warm-up row, one
            answers=int(self._rows.answers[indices].sum()),
            known=int(self._rows.known[indices].sum()),
            padding_saved=padding_share(lengths.tolist(), dealt),
            imbalance=imbalance(lengths.tolist(), dealt),
        )

    def from_step(self, first: int, threads: int) -> Iterator[StepBatches]:
        """Step `first` and all later ones, made by threads before they are taken."""
        jobs = (partial(self.make, step) for step in range(first, self._phase.steps))
        return ahead(jobs, depth=STEPS_AHEAD, threads=threads)

    def _pack(self, rows: Sequence[EncodedRow]) -> PackedBatch:
        """A micro batch; where there are fewer conversations than micro batches, one that teaches nothing."""
        if self._phase.vision_only:
            rows = [first_token(row) for row in rows]
        return pack(rows or [self._filler], pad_token_id=self._pad_token_id, pad_to=ROUND_TO)


def first_token(row: EncodedRow) -> EncodedRow:
    """A row of which only the pictures are wanted."""
    return replace(row, input_ids=row.input_ids[:1], labels=row.labels[:1], positions=row.positions[:, :1])


def _filler(encoder: ChatEncoder) -> EncodedRow:
    """A row without pictures and without loss, for a worker that has nothing to do while the others do."""
    chat = encoder.encode([{"role": "user", "text": "yes"}, {"role": "assistant", "text": "yes"}])
    return EncodedRow(
        input_ids=chat.input_ids,
        labels=np.full_like(chat.labels, IGNORE_INDEX),
        positions=chat.positions,
        media=encoder.media(),
    )


def phases(config: Stage1Config) -> list[Phase]:
    """What is trained, one after the other."""
    warm_up = config.vision_steps if config.backbone == "tiny" else 0
    return [
        Phase(name="vision warm-up", steps=warm_up, batch=config.vision_batch, first_step=0, vision_only=True),
        Phase(name="conversations", steps=config.steps, batch=config.batch, first_step=warm_up, vision_only=False),
    ]


def batches_of(phase: Phase, config: Stage1Config, rows: RowStore, encoder: ChatEncoder, seed: int) -> Batches:
    """All steps of a phase. The warm-up takes rows of which it is known where things are; the conversations follow the
    mixture. UserError if the corpora have no rows for the warm-up.
    """
    common = {"micro_tokens": config.micro_tokens, "rank": dist.get_rank(), "world": dist.get_world_size()}
    if not phase.vision_only:
        return Batches(rows, stream(rows, config, seed), phase, encoder, **common)
    pool = np.flatnonzero(rows.known)
    if phase.steps and not len(pool):
        raise UserError("no picture of the corpora says where things are in it; set stage1.vision_steps to 0")
    return Batches(rows, Stream([""] * len(pool), (), seed * 2 + 1), phase, encoder, pool=pool, **common)


def stream(rows: RowStore, config: Stage1Config, seed: int) -> Stream:
    """The conversations of a run, in their order."""
    return Stream(rows.sources, config.mixture, seed * 2)
