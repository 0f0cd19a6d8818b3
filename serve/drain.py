"""How a replica learns that it has to go, so that open episodes can end first.

Ray Serve waits for a replica's requests, open WebSockets among them, but tells the code in it nothing. It keeps a mark
in the replica's process, though, which `replica_stops` reads; where a later Ray keeps it elsewhere, sessions are cut
off when Serve's patience ends, and the log says so.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from blm.cluster.ray_corners import replica_stops
from blm.serve.observability.logs import log

LOOK_EVERY_S = 0.25
SETTLE_S = 3.0
"""For so long a replica that has to go goes on as if it had not: until then the front may still send it somebody."""
PATIENCE_S = 15.0
"""How much longer than `drain_s` Serve waits before it kills a replica."""


async def when_stopping(
    leave: Callable[[], Awaitable[None]], *, look: Callable[[], bool | None] = replica_stops, settle_s: float = SETTLE_S
) -> None:
    """Wait until the replica has to go and the front knows of it, then call `leave`, once."""
    while not (now := look()):
        if now is None:
            log("drain", level=logging.WARNING, message="this Ray does not show when a replica has to go")
            return
        await asyncio.sleep(LOOK_EVERY_S)
    await asyncio.sleep(settle_s)
    log("drain", message="this replica has to go; open episodes may end")
    await leave()
