"""Where work goes on the cluster that is there: nodes of the kind it asks for, or wherever there is room.

What is asked is in `asks.py`. A cluster without nodes of a kind, one machine among them, does that kind's work on any
node, with at most one CPU a process; `describe` says so. Nodes that are not there yet but that the autoscaler may start
count as if they were. Nothing here asks for more than some node can give, so nothing waits for ever.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from blm.cluster import ray_corners
from blm.cluster.asks import KINDS, Ask, Kind
from blm.model.errors import UserError

PATIENCE_S = 600.0
"""How long the first node that can do some work is waited for: those of a new cluster come one by one."""
LOOK_EVERY_S = 2.0
MANY = 1000
"""Nodes of a group without a limit, where they are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A node of the cluster, or one that the autoscaler may start."""

    cpus: float = 0.0
    gpus: float = 0.0
    kinds: frozenset[str] = frozenset()
    """Empty: of no kind."""
    count: int = 1
    """So many of them."""
    alive: bool = True
    """Whether it is there now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """What a process asks Ray for."""

    cpus: float
    gpus: float
    kind: str = ""
    """Empty: wherever there is room."""
    room: int
    """How many such processes have room at once, on nodes that have yet to be started too, if they do nothing else."""


def place(ask: Ask, nodes: Sequence[Node]) -> Place | None:
    """What to ask for on these nodes, or None if none of them can do it."""
    able = [node for node in nodes if node.cpus >= min(ask.cpus, 1.0) and node.gpus >= ask.gpus]
    if ask.cpus == 0 and ask.gpus == 0:
        able = list(nodes)
    if not able:
        return None
    own = [node for node in able if ask.kind in node.kinds]
    if own:
        cpus = min(ask.cpus, max(_cpus_each(node, ask) for node in own))
    else:
        cpus = 0.0 if ask.beside else min(ask.cpus, 1.0)
    room = sum(node.count * _fits(node, cpus, ask.gpus) for node in own or able)
    return Place(cpus=cpus, gpus=ask.gpus, kind=ask.kind if own else "", room=min(room, sys.maxsize))


def _cpus_each(node: Node, ask: Ask) -> float:
    """CPUs for each process if the node's GPUs are all used; 1 at least."""
    processes = int(node.gpus // ask.gpus) if ask.gpus else 1
    return max(float(node.cpus // max(processes, 1)), min(ask.cpus, 1.0))


def _fits(node: Node, cpus: float, gpus: float) -> int:
    by_cpus = int(node.cpus // cpus) if cpus else sys.maxsize
    return min(by_cpus, int(node.gpus // gpus) if gpus else sys.maxsize)


def there() -> list[Node]:
    """The nodes of the cluster that is connected, then those that its autoscaler may start."""
    import ray

    found = [_node(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    return found + startable(ray_corners.node_groups(), found)


def startable(groups: Sequence[tuple[Mapping[str, float], int]], found: Sequence[Node]) -> list[Node]:
    """What the autoscaler may start beside the nodes that are found.

    groups: resources of a node of each group, and the most nodes of it; -1 for any number.
    """
    nodes = []
    for resources, most in groups:
        node = _node(resources)
        count = MANY if most < 0 else most - sum(one == node for one in found)
        if count > 0:
            nodes.append(replace(node, count=count, alive=False))
    return nodes


def _node(resources: Mapping[str, float]) -> Node:
    return Node(
        cpus=float(resources.get("CPU", 0.0)),
        gpus=float(resources.get("GPU", 0.0)),
        kinds=frozenset(kind for kind in KINDS if resources.get(kind, 0.0) >= 1),
    )


def placed(ask: Ask, *, patience_s: float = PATIENCE_S) -> Place:
    """`place` on the cluster that is connected. Waits up to `patience_s` for the first node that can do the work.

    Raises UserError if there is none by then.
    """
    limit_s, said = time.monotonic() + patience_s, False
    while True:
        found = place(ask, there())
        if found is not None:
            return found
        if time.monotonic() >= limit_s:
            raise UserError(f"no node of the cluster has {_words(ask)}; add one ({ask.kind}), or ask for less")
        if not said:
            said = True
            print(f"[ray] no node has {_words(ask)} yet; waiting up to {patience_s:.0f} s for one", flush=True)
            _demand(ask)
        time.sleep(min(LOOK_EVERY_S, patience_s))


def _demand(ask: Ask) -> None:
    """Have the autoscaler, if there is one, know what is waited for: it starts nodes for nothing else."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[{"CPU": min(ask.cpus, 1.0)} | ({"GPU": ask.gpus} if ask.gpus else {})])


def _words(ask: Ask) -> str:
    gpus = f"{ask.gpus:g} GPU and " if ask.gpus else ""
    return f"{gpus}{min(ask.cpus, 1.0):g} CPU to offer"


def options(ask: Ask, *, patience_s: float = PATIENCE_S) -> dict[str, Any]:
    """Options of a Ray actor or task, or of a map of Ray Data. UserError as `placed`."""
    found = placed(ask, patience_s=patience_s)
    kind: dict[str, Any] = {"resources": {found.kind: 1}} if found.kind else {}
    return {"num_cpus": found.cpus, "num_gpus": found.gpus, **kind}


def per_worker(found: Place) -> dict[str, float]:
    """The same for Ray Train's `resources_per_worker`."""
    gpus = {"GPU": found.gpus} if found.gpus else {}
    return {"CPU": found.cpus, **gpus, **({found.kind: 1.0} if found.kind else {})}


def of_kind(kind: Kind) -> dict[str, Any]:
    """Options that keep an actor on nodes of a kind, if there are such nodes; for whoever asks for CPUs itself."""
    from blm.cluster.ray_runtime import is_up

    known = is_up() and any(kind in node.kinds for node in there())
    return {"resources": {kind: 1}} if known else {}


def fitting(wanted: int | Literal["auto"], ask: Ask) -> int:
    """How many processes to start: as many as wanted, but no more than there is room for; auto: all that have room. 1
    at least. UserError as `placed`."""
    room = max(1, placed(ask).room)
    return room if wanted == "auto" else max(1, min(wanted, room))


def several() -> bool:
    """Whether work may go to more than one node, now or once the autoscaler has started some."""
    return sum(node.count for node in there() if node.cpus >= 1) > 1


def describe(nodes: Sequence[Node]) -> str:
    """The cluster in one line: its nodes, their kinds, and whose work goes wherever there is room."""
    alive = [node for node in nodes if node.alive]
    cpus, gpus = sum(node.cpus for node in alive), sum(node.gpus for node in alive)
    parts = [f"{len(alive)} nodes, {cpus:g} CPUs, {gpus:g} GPUs"]
    counts = {kind: sum(kind in node.kinds for node in alive) for kind in KINDS}
    known = {kind for kind in KINDS if any(kind in node.kinds for node in nodes)}
    parts += [f"{count} {kind}" for kind, count in counts.items() if kind in known]
    missing = [kind for kind in KINDS if kind not in known]
    if missing:
        parts.append(f"no {' and no '.join(missing)} node: that work goes wherever there is room")
    return "; ".join(parts)


def leaving() -> bool:
    """Whether the node of this process was told to go (spot instances, `blm leave`). False without Ray."""
    from blm.cluster.ray_runtime import is_up

    if not is_up():
        return False
    import ray

    return ray.get_runtime_context().get_node_id() in ray_corners.draining()
