"""The replicas that hold the policy alone, as seen from a replica of the whole model."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from blm.model.errors import UserError
from blm.model.types import ActionChunk, ComputeTiming, Observation, Prefixes
from blm.serve.observability.logs import log
from blm.serve.sessions.session import BusyError

PATIENCE_S = 5.0
"""An answer that takes longer is not waited for: the pool has gone to sleep, or is full itself."""


class ControlPool:
    """Has observations computed in `control` replicas; a `Compute` (serve/batches/answers.py).

    There may be none of them at the moment. With `wait` an observation then waits for the first one to start;
    otherwise it is refused at once (`BusyError`) while one is being started.
    """

    def __init__(self, handle: Any, *, wait: bool, patience_s: float = PATIENCE_S) -> None:
        """handle: Ray Serve's handle of the deployment."""
        self._handle, self._wait, self._patience_s = handle, wait, patience_s
        self._awake = False
        self._knocking: asyncio.Task[None] | None = None

    async def __call__(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> tuple[list[ActionChunk], ComputeTiming]:
        """As `Compute`. UserError for a bad observation, `BusyError` where nobody can answer."""
        if not self._wait and not self._awake:
            self._knock()
            raise BusyError("no control replica is ready yet; try again in a moment")
        answer = self._handle.act.remote(list(observations), list(seeds), prefixes)
        try:
            if self._wait:
                return await answer
            return await asyncio.wait_for(answer, self._patience_s)
        except UserError as error:
            # Ray adds the traceback of the other process to the message.
            raise UserError(str(getattr(error, "cause", error))) from None
        except BusyError:
            raise BusyError("the control replicas have too much to do; try again in a moment") from None
        except Exception as error:  # whatever is wrong with them, the caller is to go on without
            self._awake = False
            log("control", level=logging.WARNING, message=f"no answer from control replicas ({type(error).__name__})")
            raise BusyError("the control replicas do not answer; try again in a moment") from error

    def _knock(self) -> None:
        """Ask for a sign of life: that waits for a replica, and so makes Ray Serve start one."""
        if self._knocking is None or self._knocking.done():
            self._knocking = asyncio.create_task(self._wake())

    async def _wake(self) -> None:
        try:
            await self._handle.ready.remote()
            self._awake = True
        except Exception as error:  # told to the log; the next overflow knocks again
            log("control", level=logging.WARNING, message=f"no control replica came up ({type(error).__name__})")
