"""Work items through Ray Data: many independent pieces of work on a few long-lived workers.

An item is a small dictionary that says what to do; the worker writes its result to a file of its own and
returns a small dictionary about it, so nothing large passes through the object store and finished work
survives a kill. Every item is one block: workers take the next one when they are free, and results come back
in the order they are finished.

Where nodes do not share their disks (`blm.cluster.depot`), a worker is handed its files under the names that they have
on its own node, brought from the store; what it has written goes to the store before anybody hears of it, and in the
end to the driver.
"""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from blm.cluster import depot
from blm.cluster.asks import DATA, Ask
from blm.cluster.nodes import fitting, options
from blm.cluster.ray_runtime import cause_of


def map_items(
    items: Sequence[dict[str, Any]],
    worker: type,
    *,
    arguments: dict[str, Any],
    workers: int,
    ask: Ask = DATA,
    light: bool = False,
    reads: Sequence[str] = (),
    writes: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """Give every item to one of `workers` instances of `worker(**arguments)`, a callable class; yield its
    results.

    All items have the same keys, and so have all results. Ray must be running, but for 0 workers: then this process
    does the work itself. A worker process that dies is started anew and its item repeated. A UserError raised by a
    worker comes out as that UserError.

    ask: what each worker asks of which kind of node. A node that goes for good takes its worker along, and the others
    do its items.

    light: the worker is made in a moment, so no processes are started for it: those that Ray has ready make it when
    they first need it. That spares some seconds, which long-lived workers with models or simulators are worth.

    reads: keys of items, and names of arguments, under which a file or folder of the run stands that the worker reads,
    or a list of them. writes: keys of items under which the file stands that it writes.
    """
    if not items:
        return
    if depot.has_store():
        worker, arguments = Carrier, {"worker": worker, "arguments": arguments, "reads": reads, "writes": writes}
    if workers == 0:
        yield from map(worker(**arguments), items)
        return
    import ray.data

    most = min(fitting(workers, ask), len(items))
    names: list[str] = []
    dataset = ray.data.from_items(list(items), override_num_blocks=len(items))
    if light:
        tasks = ray.data.TaskPoolStrategy(size=most)
        dataset = dataset.map(_made_when_needed(worker, arguments), compute=tasks, **options(ask))
    else:
        dataset = dataset.map(
            worker,
            fn_constructor_kwargs=arguments,
            # From 1 on: Ray Data plans for the least of a pool, and a node may go for good.
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=most),
            # Deprecated, but the one way for several actors of a pool to have names of their own.
            ray_remote_args_fn=lambda: {"name": _new_name(names)},
            **options(ask),
        )
    try:
        yield from dataset.iter_rows()
    except Exception as error:
        _send_away(names)
        cause = cause_of(error)
        if cause is None:
            raise
        raise cause from None
    for folder in {Path(item[key]).parent for item in items for key in writes}:
        depot.here(folder)


class Carrier:
    """A worker on a node whose disk is its own: `worker(**arguments)`, handed files under the names they have here."""

    def __init__(self, worker: type, arguments: Mapping[str, Any], reads: Sequence[str], writes: Sequence[str]) -> None:
        self._reads, self._writes = tuple(reads), tuple(writes)
        self._worker = worker(**_moved(arguments, self._reads, depot.here))

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """The worker's result, once what it has written is in the store."""
        here = _moved(_moved(item, self._reads, depot.here), self._writes, depot.place)
        for key in self._writes:
            Path(here[key]).parent.mkdir(parents=True, exist_ok=True)  # the driver may have made it, on its own disk
        result: dict[str, Any] = self._worker(here)
        for key in self._writes:
            depot.keep(Path(here[key]))
        return result


def _moved(values: Mapping[str, Any], keys: Sequence[str], find: Callable[[Path], Path]) -> dict[str, Any]:
    """The values with the paths of some keys as `find` says. What is no file of the run (a hub's name) stays."""

    def moved(path: str) -> str:
        found = find(Path(path))
        return path if found == Path(path) else str(found)

    given = {key: values[key] for key in keys if key in values}
    return dict(values) | {
        key: moved(value) if isinstance(value, str) else [moved(one) for one in value] for key, value in given.items()
    }


_made: dict[str, Any] = {}
"""In a worker process: the one light worker it made last, by the call of `map_items` that it was made for."""


def _new_name(names: list[str]) -> str:
    """For a worker's actor; added to the names."""
    names.append(f"blm-items-{uuid.uuid4().hex}")
    return names[-1]


def _send_away(names: Sequence[str]) -> None:
    """End the workers of a call that failed.

    Ray Data lets go of their handles and nothing more, and the frames of the exception know those: the actors would
    keep their CPUs until Python next looks for cycles, minutes later, and whatever comes next would wait for them.
    """
    import ray

    for name in names:
        with suppress(ValueError):  # that one is gone
            ray.kill(ray.get_actor(name))


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
