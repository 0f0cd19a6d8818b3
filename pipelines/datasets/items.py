"""Work items through Ray Data: many independent pieces of work on a few long-lived workers.

An item is a small dictionary that says what to do; the worker writes its result to a file of its own and
returns a small dictionary about it, so nothing large passes through the object store and finished work
survives a kill. Every item is one block: workers take the next one when they are free, and results come back
in the order they are finished.
"""

import uuid
from collections.abc import Callable, Iterator, Sequence
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
    light: bool = False,
) -> Iterator[dict[str, Any]]:
    """Give every item to one of `workers` instances of `worker(**arguments)`, a callable class; yield its
    results.

    All items have the same keys, and so have all results. Ray must be running, but for 0 workers: then this process
    does the work itself. A worker process that dies is started anew and its item repeated. A UserError raised by a
    worker comes out as that UserError.

    light: the worker is made in a moment, so no processes are started for it: those that Ray has ready make it when
    they first need it. That spares some seconds, which long-lived workers with models or simulators are worth.
    """
    if not items:
        return
    if workers == 0:
        yield from map(worker(**arguments), items)
        return
    import ray.data

    dataset = ray.data.from_items(list(items), override_num_blocks=len(items))
    if light:
        tasks = ray.data.TaskPoolStrategy(size=min(workers, len(items)))
        dataset = dataset.map(_made_when_needed(worker, arguments), compute=tasks, num_cpus=num_cpus)
    else:
        dataset = dataset.map(
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


_made: dict[str, Any] = {}
"""In a worker process: the one light worker it made last, by the call of `map_items` that it was made for."""


def _made_when_needed(worker: type, arguments: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function that makes the worker in each process that calls it, once."""
    import ray

    call, recipe = uuid.uuid4().hex, ray.put((worker, arguments))

    def work(item: dict[str, Any]) -> dict[str, Any]:
        return _worker_of(call, recipe)(item)

    return work


def _worker_of(call: str, recipe: Any) -> Any:
    if call not in _made:
        import ray

        made, arguments = ray.get(recipe)
        _made.clear()
        _made[call] = made(**arguments)
    return _made[call]
