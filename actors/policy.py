"""A trained policy in an actor of its own, answering rollouts from many others.

A request is a batch already: a group of episodes that look together. By default each request is one forward pass,
so that its answer depends on nothing but itself, down to the last bit. On an accelerator, which small batches leave
idle, requests that arrive while another is computed can be answered together (`merge`); what that costs is the
reproducibility of the last digits.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from blm.actors.sim.policies import Inference, PolicyError
from blm.cluster.ray_runtime import cause_of
from blm.model.types import ActionChunk, Observation

RESTARTS = 3
"""How often a policy process that dies is started anew before the evaluation ends."""


@dataclass(frozen=True, slots=True)
class _Request:
    observations: Sequence[Observation]
    seeds: Sequence[int]
    answer: "asyncio.Future[list[ActionChunk]]"


class PolicyServer:
    """Plain object; `ray.remote` turns it into an asyncio actor."""

    def __init__(self, make_policy: Callable[[], Inference], merge: int = 0) -> None:
        """merge: most observations of different requests that are computed together; 0: each request by itself."""
        self._policy = make_policy()
        self._merge = merge
        self._waiting: list[_Request] = []
        self._serving: asyncio.Task[None] | None = None
        self.passes = 0
        """Forward passes so far."""

    async def ready(self) -> bool:
        """True, once the policy is loaded."""
        return True

    async def infer_batch(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[ActionChunk]:
        """A chunk for each observation, in order. Raises what the policy raises."""
        answer: asyncio.Future[list[ActionChunk]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Request(observations, seeds, answer))
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve())
        return await answer

    async def _serve(self) -> None:
        """Answer until nobody waits. The policy runs in a thread, so that requests can arrive meanwhile."""
        while self._waiting:
            requests = self._take()
            if not await self._compute(requests) and len(requests) > 1:
                for request in requests:  # one bad observation must not spoil the requests of others
                    await self._compute([request])

    def _take(self) -> list[_Request]:
        """The oldest request, and those behind it that fit into the same pass."""
        requests = [self._waiting.pop(0)]
        count = len(requests[0].seeds)
        while self._waiting and count + len(self._waiting[0].seeds) <= self._merge:
            count += len(self._waiting[0].seeds)
            requests.append(self._waiting.pop(0))
        return requests

    async def _compute(self, requests: Sequence[_Request]) -> bool:
        """Answer requests in one pass. False if it failed, which a single request is told and several are not."""
        observations = [observation for request in requests for observation in request.observations]
        seeds = [seed for request in requests for seed in request.seeds]
        self.passes += 1
        try:
            chunks = await asyncio.to_thread(self._policy.infer_batch, observations, seeds)
        except Exception as error:
            if len(requests) == 1:
                requests[0].answer.set_exception(error)
            return False
        first = 0
        for request in requests:
            request.answer.set_result(chunks[first : first + len(request.seeds)])
            first += len(request.seeds)
        return True


class RemotePolicy:
    """A `PolicyServer` behind an actor handle, as rollouts see it. Can be sent to other actors."""

    sees = True

    def __init__(self, name: str, server: ActorHandle) -> None:
        self.name = name
        self._server = server

    def infer_batch(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[ActionChunk]:
        """PolicyError if the policy raised; RayActorError if it died more than `RESTARTS` times."""
        try:
            return ray.get(self._server.infer_batch.remote(list(observations), list(seeds)))
        except RayActorError:
            raise
        except RayTaskError as error:
            raise PolicyError(f"{type(error.cause).__name__}: {error.cause}") from None

    def stop(self) -> None:
        """End the policy's process."""
        ray.kill(self._server)


def start_policy(
    name: str, make_policy: Callable[[], Inference], *, merge: int = 0, num_cpus: float = 0, num_gpus: float = 0
) -> RemotePolicy:
    """A policy in a new actor, loaded. Raises the UserError that loading raised.

    num_cpus is 0 by default: while the policy computes, the rollouts that asked for it wait.
    """
    actor = ray.remote(PolicyServer).options(
        num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=RESTARTS, max_task_retries=RESTARTS, max_concurrency=1000
    )
    server = actor.remote(make_policy, merge)
    try:
        ray.get(server.ready.remote())
    except RayActorError as error:
        cause = cause_of(error)
        if cause is None:
            raise
        raise cause from None
    return RemotePolicy(name, server)
