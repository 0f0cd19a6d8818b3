"""What Ray has no public way for. All of it stands here, so that another Ray is tried out in one place.

Ray's own tools use the same corners: `ray drain-node` and `ray status`, Ray Data's autoscaler, Ray Train's watcher of
nodes. Ray must be up for every function; none imports Ray before it is called.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_NAMESPACE = b"blm"


def drain(node_id: str, deadline_ms: int, why: str) -> str | None:
    """Tell the cluster that a node goes at a time (milliseconds since the epoch). None, or why it may not go."""
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, refusal = _cluster_store().drain_node(node_id, reason, why, deadline_ms)
    return None if accepted else str(refusal)


def draining() -> set[str]:
    """Ids of the nodes that were told to go."""
    import ray
    from ray._private.state import state

    with suppress(AttributeError, RuntimeError, ray.exceptions.RayError):
        return set(state.get_draining_nodes())
    return set()


def node_groups() -> list[tuple[Mapping[str, float], int]]:
    """Resources of a node of each group that the autoscaler may start, and the most nodes of it (-1: any number);
    nothing without an autoscaler (its second version tells)."""
    from ray._private.state import state

    with suppress(AttributeError, RuntimeError):
        config = state.get_cluster_config()
        return [(dict(one.resources), one.max_count) for one in config.node_group_configs] if config else []
    return []


def leave_word(key: bytes) -> None:
    """Put up a word that every process of the cluster can see."""
    _cluster_store().internal_kv_put(key, b"1", True, _NAMESPACE)


def has_word(key: bytes) -> bool:
    """Whether somebody has left that word."""
    return bool(_cluster_store().internal_kv_exists(key, _NAMESPACE))


def remove_word(key: bytes) -> None:
    """Take it down."""
    _cluster_store().internal_kv_del(key, False, _NAMESPACE)


def dashboard_address() -> str | None:
    """HOST:PORT of the dashboard, if there is one. `ray.init` returns it, but only to whoever called it."""
    from ray._private.worker import get_dashboard_url

    url = get_dashboard_url()
    return str(url) if url else None


def session_folder() -> Path | None:
    """Where this Ray session keeps its files on this node."""
    from ray._private.worker import _global_node

    return Path(_global_node.get_session_dir_path()) if _global_node else None


def forward_with(show: Callable[..., None]) -> None:
    """Have what processes of the cluster say go through `show(batch, ignore_prefix=False)` in this driver."""
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):  # another Ray keeps its own way of forwarding
        worker.print_to_stdstream = show


def placement_group(name: str) -> Any:
    """The placement group of an id in hexadecimal, as `ray.util.placement_group_table` names it."""
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup

    return PlacementGroup(PlacementGroupID(bytes.fromhex(name)))


def replica_stops() -> bool | None:
    """Whether Ray Serve is stopping the replica that this process is; None if it cannot be told."""
    from ray._private.worker import global_worker

    replica: Any = global_worker.actors.get(global_worker.actor_id)
    return getattr(getattr(replica, "_replica_impl", None), "_shutting_down", None)


def _cluster_store() -> Any:
    """The head's table. Ray's own helper for it is lost to a process in which another cluster has ended."""
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    return GcsClient(address=ray.get_runtime_context().gcs_address)
