"""The playground of `blm serve`: a deployment with the simulator, and the page that shows it.

It belongs to the served application: Ray Serve starts it, replaces it when it dies, and ends it with the rest. The
simulator talks with the model as any robot does, over `/blm` through the front door, with the visitor's key.
"""

import functools
import json
from pathlib import Path
from typing import Any

from blm.actors.playground import PlaygroundOptions
from blm.serve.client import PolicyClient
from blm.serve.config import ServeConfig
from blm.serve.playground.routes import playground_extra

PLAYGROUND = "playground"
DEADLINE_S = 20.0
"""For an answer of the model; who plays sees the error then."""
MOST_ONGOING = 1024
"""Every visitor waits for news nearly all the time."""


def playground(folder: Path, config: ServeConfig) -> Any:
    """The `Extra` of the served application. Nothing is started here."""
    from ray import serve

    from blm.actors.playground import Playground
    from blm.serve.deployments import Extra

    address = config.playground.url or f"ws://{_reachable(config.host)}:{config.port}"
    deployment = serve.deployment(
        Playground,
        name=PLAYGROUND,
        num_replicas=1,  # visits live in one process; a second would not know them
        max_ongoing_requests=MOST_ONGOING,
        ray_actor_options={"num_cpus": 0},
    )
    worker = deployment.bind(functools.partial(connect, address), options(folder, config))
    return Extra(routes=functools.partial(playground_extra, chat=config.chat.enabled), worker=worker)


def connect(address: str, key: str) -> PolicyClient:
    """A connection of the simulator to the model. UserError if nobody answers, or not to this key."""
    client = PolicyClient(address, key=key, deadline_s=DEADLINE_S)
    client.connect()
    return client


def options(folder: Path, config: ServeConfig) -> PlaygroundOptions:
    """How episodes are shown: as configured, in the world that the checkpoint was trained in as far as it tells."""
    provenance = json.loads((folder / "blm.json").read_text()).get("provenance", {})
    geometry = provenance.get("geometry")
    return PlaygroundOptions(
        visitors=config.playground.visitors,
        display_px=config.playground.display_px,
        steps_a_frame=config.playground.steps_a_frame,
        geometry="official" if geometry == "official" else "lite",
        trained=tuple(str(cell) for cell in provenance.get("cells", ())),
    )


def _reachable(host: str) -> str:
    """The address under which a server that listens on `host` is found on its own machine."""
    if host in ("0.0.0.0", ""):
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host
