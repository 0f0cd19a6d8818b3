"""Notice that a node is about to go: what a pod's preStop hook and a watcher of spot instances run on the node itself.

    python -m blm.cluster.leave --seconds 90

Ray places nothing new there from then on, trainings with a worker on it save every few seconds
(`blm.pipelines.checkpoint_times`), Ray Data and the pools of actors move on when the node has gone. The command ends at
once; with `--wait` it stays until the time is over, as a preStop hook must that wants the node to live so long.
"""

import argparse
import os
import sys
import time

from blm.cluster import ray_corners
from blm.model.errors import UserError

SECONDS = 90.0


def announce(seconds: float, node_id: str | None = None) -> str:
    """Tell the cluster that is connected that a node goes in `seconds`; this process's node if none is named.

    Returns the node's id. Raises UserError if the cluster refuses, as it does for its head.
    """
    import ray

    node_id = node_id or str(ray.get_runtime_context().get_node_id())
    refusal = ray_corners.drain(node_id, int((time.time() + seconds) * 1000), "the node was told to go")
    if refusal is not None:
        raise UserError(f"the cluster does not let node {node_id[:8]} go: {refusal}")
    return node_id


def main(words: list[str] | None = None) -> int:
    """The command line; 1 with a line on standard error if there is nobody to tell."""
    parser = argparse.ArgumentParser(prog="python -m blm.cluster.leave", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, metavar="N", help=f"until the node goes (default: {SECONDS:g})"
    )
    parser.add_argument("--wait", action="store_true", help="end when the time is over, not at once")
    arguments = parser.parse_args(words)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    try:
        ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
        node_id = announce(arguments.seconds)
    except (ConnectionError, RuntimeError, UserError) as error:
        print(f"[leave] nobody was told: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    finally:
        ray.shutdown()
    print(f"[leave] node {node_id[:8]} goes in {arguments.seconds:g} s")
    if arguments.wait:
        time.sleep(arguments.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
