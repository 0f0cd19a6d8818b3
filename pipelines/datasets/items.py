"""Work items through Ray Data: many independent pieces of work on a few long-lived workers.

An item is a small dictionary that says what to do; the worker writes its result to a file of its own and
returns a small dictionary about it, so nothing large passes through the object store and finished work
survives a kill. Every item is one block: workers take the next one when they are free, and results come back
in the order they are finished.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from blm.cluster.ray_runtime import cause_of


def map_items(
    items: Sequence[dict[str, Any]],
    worker: type,
    *,
    arguments: dict[str, Any],
    workers: int,
    num_cpus: float = 1,
    num_gpus: float = 0,
) -> Iterator[dict[str, Any]]:
    """Give every item to one of `workers` instances of `worker(**arguments)`, a callable class; yield its
    results.

    All items have the same keys, and so have all results. Ray must be running. A worker process that dies is
    started anew and its item repeated. A UserError raised by a worker comes out as that UserError.
    """
    import ray.data

    if not items:
        return
    dataset = ray.data.from_items(list(items), override_num_blocks=len(items)).map(
        worker,
        fn_constructor_kwargs=arguments,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(items))),
        num_cpus=num_cpus,
        num_gpus=num_gpus or None,
    )
    try:
        yield from dataset.iter_rows()
    except Exception as error:
        cause = cause_of(error)
        if cause is None:
            raise
        raise cause from None
