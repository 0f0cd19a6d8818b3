"""Which rows of a training step go to which worker, and into which of its micro batches.

Conversations differ in length by a factor of a hundred. Dealt out in order, one worker would wait for another at
every synchronisation, and memory would have to suffice for the unluckiest batch. Here rows are dealt by tokens: the
longest first, each into the emptiest place. The step's loss is a sum over its answer tokens divided by their number,
so none of this changes what is learned, but for the order in which floats are added.
"""

import heapq
from collections.abc import Sequence

Plan = list[list[list[int]]]
"""[rank][micro batch] -> places in the step's row list, ascending."""


def plan(lengths: Sequence[int], world: int, max_tokens: int) -> Plan:
    """Deal the rows of a step to `world` workers, in as few micro batches of at most `max_tokens` tokens as it takes.

    lengths: tokens of each row. Every worker gets the same number of micro batches, and those that run at the same
    time are of similar size. A row longer than `max_tokens` stands alone in its micro batch. A micro batch is empty
    only where there are fewer rows than places. A pure function of its arguments.
    """
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    micro = max(1, -(-sum(lengths) // (world * max_tokens)))
    while True:
        bins = _deal(lengths, order, world * micro)
        if all(len(rows) <= 1 or sum(lengths[row] for row in rows) <= max_tokens for rows in bins):
            return _spread(lengths, bins, world, micro)
        micro += 1


def padding_share(lengths: Sequence[int], dealt: Plan) -> float:
    """Share of tokens that right-padding each micro batch to its longest row would add: what packing saves."""
    padded = sum(len(rows) * max((lengths[row] for row in rows), default=0) for rank in dealt for rows in rank)
    return 1 - sum(lengths) / padded if padded else 0.0


def imbalance(lengths: Sequence[int], dealt: Plan) -> float:
    """Tokens that the busiest worker of each micro batch has, over all micro batches, in units of the mean."""
    loads = [[sum(lengths[row] for row in rows) for rows in rank] for rank in dealt]
    slowest = sum(max(rank[micro] for rank in loads) for micro in range(len(dealt[0])))
    return slowest * len(dealt) / max(sum(lengths), 1)


def _deal(lengths: Sequence[int], order: Sequence[int], count: int) -> list[list[int]]:
    """Rows into `count` bins: longest first, into the bin with the fewest tokens (of equals the first)."""
    bins: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, index) for index in range(count)]
    for row in order:
        load, index = heapq.heappop(loads)
        bins[index].append(row)
        heapq.heappush(loads, (load + lengths[row], index))
    return bins


def _spread(lengths: Sequence[int], bins: list[list[int]], world: int, micro: int) -> Plan:
    """Bins of similar size side by side in time, and turns alternating so that no worker always gets the larger."""
    loads = [sum(lengths[row] for row in rows) for rows in bins]
    by_load = sorted(range(len(bins)), key=lambda index: (-loads[index], index))
    dealt: Plan = [[] for _ in range(world)]
    for turn in range(micro):
        together = by_load[turn * world : (turn + 1) * world]
        for rank, index in enumerate(together if turn % 2 == 0 else reversed(together)):
            dealt[rank].append(sorted(bins[index]))
    return dealt
