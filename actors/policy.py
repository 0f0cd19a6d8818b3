"""A trained policy in processes of its own, answering rollouts from many others.

A light actor keeps the queue (`Broker`); the policy itself is in one actor more, or one for each GPU, so that one that
hangs inside native code can be ended from outside while the others go on.

A request is a batch already: the episodes of one simulator process that look together.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from blm.actors.broker import RESTARTS, Broker, EngineDied, Load
from blm.actors.pool import brief
from blm.actors.sim.policies import Inference, PolicyError, PolicyTimeoutError
from blm.cluster import nodes
from blm.cluster.asks import Ask, asked
from blm.model.errors import UserError
from blm.model.types import ActionChunk, Observation, Prefixes


class PolicyProcess:
    """Plain object; `ray.remote` turns it into the actor that has the policy."""

    def __init__(self) -> None:
        self._policy: Inference | None = None

    def load(self, make_policy: Callable[[], Inference]) -> None:
        """Make the policy here. Raises what that raises."""
        self._policy = make_policy()

    def infer(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None
    ) -> list[ActionChunk]:
        """The policy's answer."""
        assert self._policy is not None, "infer before load"
        if prefixes is None:
            return self._policy.infer_batch(observations, seeds)
        return self._policy.infer_batch(observations, seeds, prefixes)


class RayEngine:
    """An `Engine` that is a `PolicyProcess` in a Ray actor."""

    def __init__(self, make_policy: Callable[[], Inference], options: dict[str, Any]) -> None:
        self._make_policy, self._options = make_policy, options
        self._actor: ActorHandle | None = None

    async def renew(self) -> None:
        """End the process, if there is one, and load the policy in another. Raises what loading raises; one that dies
        meanwhile is followed by another, a few times."""
        for attempt in range(RESTARTS + 1):
            self.stop()
            self._actor = ray.remote(PolicyProcess).options(**self._options).remote()
            try:
                await self._actor.load.remote(self._make_policy)
                return
            except RayTaskError as error:
                raise error.cause from None
            except (RayActorError, OutOfMemoryError):
                if attempt == RESTARTS:
                    raise

    def stop(self) -> None:
        """End the process."""
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None

    async def infer(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None
    ) -> list[ActionChunk]:
        """The policy's answer. UserError if it raised that, PolicyError with whatever else it raised; EngineDied."""
        assert self._actor is not None, "infer before renew"
        try:
            return await self._actor.infer.remote(observations, seeds, prefixes)
        except (RayActorError, OutOfMemoryError) as error:
            raise EngineDied(str(error)) from None
        except RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise PolicyError(f"{type(error.cause).__name__}: {error.cause}") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingOptions:
    """How a policy is served."""

    processes: int = 1
    """Processes that have it, each of them whole."""
    ask: Ask = asked("evaluate", "policy", device="cpu")  # noqa: RUF009 - frozen, so it may be shared
    """What each asks of which kind of node. No CPUs beside the rollouts: while it computes, those that asked wait."""
    merge: int = 0
    """Most observations of several requests in one pass; 0: each request by itself."""
    wait_s: float = 0.0
    """How long a pass with room left waits for more requests."""
    limit_s: float = 60.0
    """A process that has not answered by then is ended."""


class PolicyServer:
    """Plain object; `ray.remote` turns it into the asyncio actor that rollouts talk to."""

    def __init__(
        self, make_policy: Callable[[], Inference], options: ServingOptions, placement: dict[str, Any]
    ) -> None:
        """placement: Ray's options of the policy's processes."""
        self._engines = [RayEngine(make_policy, placement) for _ in range(options.processes)]
        self._broker = Broker(self._engines, merge=options.merge, wait_s=options.wait_s, limit_s=options.limit_s)
        self._loading: asyncio.Task[None] | None = None

    async def ready(self) -> bool:
        """True, once the policy is loaded. Raises what loading raises."""
        if self._loading is None:
            self._loading = asyncio.create_task(self._load())
        await asyncio.shield(self._loading)
        return True

    async def _load(self) -> None:
        await asyncio.gather(*(engine.renew() for engine in self._engines))

    async def infer_batch(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None
    ) -> list[ActionChunk]:
        """As `Broker.infer_batch`."""
        await self.ready()  # an actor that was restarted has not been asked to be
        return await self._broker.infer_batch(observations, seeds, prefixes)

    async def load(self) -> Load:
        """What was done so far."""
        return self._broker.load

    async def stop(self) -> None:
        """End the policy's processes."""
        for engine in self._engines:
            engine.stop()


class RemotePolicy:
    """A `PolicyServer` behind an actor handle, as rollouts see it. Can be sent to other actors."""

    sees = True

    def __init__(self, name: str, server: ActorHandle) -> None:
        self.name = name
        self._server = server

    def infer_batch(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> list[ActionChunk]:
        """PolicyError if the policy raised or did not answer; UserError if it never will again."""
        try:
            return ray.get(self._server.infer_batch.remote(list(observations), list(seeds), prefixes))
        except RayTaskError as error:
            if isinstance(error.cause, UserError | PolicyError | PolicyTimeoutError):
                raise error.cause from None
            raise PolicyError(f"{type(error.cause).__name__}: {error.cause}") from None
        except RayActorError as error:
            raise UserError(f"the policy's server died, and so did its successors: {brief(error)}") from None

    def load(self) -> Load:
        """What was asked of it so far."""
        return ray.get(self._server.load.remote())

    def stop(self) -> None:
        """End the policy's processes."""
        with suppress(RayActorError, RayTaskError, TimeoutError):  # they go with their owner, somewhat later
            ray.get(self._server.stop.remote(), timeout=10)
        ray.kill(self._server)


def start_policy(
    name: str, make_policy: Callable[[], Inference], options: ServingOptions | None = None
) -> RemotePolicy:
    """A policy in new actors, loaded. Raises the UserError that loading raised."""
    options = options or ServingOptions()
    actor = ray.remote(PolicyServer).options(
        **nodes.options(asked("evaluate", "queue")),
        max_restarts=RESTARTS,
        max_task_retries=RESTARTS,
        max_concurrency=1000,
    )
    policy = RemotePolicy(name, actor.remote(make_policy, options, nodes.options(options.ask)))
    try:
        ray.get(policy._server.ready.remote())
    except RayTaskError as error:
        policy.stop()
        raise error.cause from None
    return policy
