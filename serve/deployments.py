"""The two kinds of replicas as Ray Serve runs them: thin shells round an engine and its web application.

model     the ingress: conversation and actions, whole, and every protocol; no hop between a client and the model
          but Ray Serve's front door
control   the policy alone, asked by the model's replicas for what they cannot answer soon enough
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from blm.model.types import ActionChunk, ComputeTiming, Observation, Prefixes
from blm.serve.autoscaling import PRESSURE, Latencies
from blm.serve.batches.answers import Compute
from blm.serve.batches.service import BatchingService
from blm.serve.checkpoint import fetched
from blm.serve.config import APPLICATION, CONTROL, MODEL, ServeConfig
from blm.serve.control_pool import ControlPool
from blm.serve.drain import when_stopping
from blm.serve.engine.engine import Engine, Role, describe_served, start_engine
from blm.serve.guard.guard import guard
from blm.serve.observability.logs import log, set_up_logs
from blm.serve.observability.metrics import Metrics
from blm.serve.observability.metrics_page import Family, families, metrics_routes
from blm.serve.observability.observe import observe
from blm.serve.sessions.sessions import Sessions
from blm.serve.web.web import build_web

PEERS_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Extra:
    """More places of the web application, and the deployment that does their work."""

    routes: Callable[[Any], Sequence[BaseRoute]]
    """Called in each replica with the worker's handle; must be importable by its name."""
    worker: Any
    """A bound deployment, of which routes get a handle."""


class MeasuredMetrics(Metrics):
    """Metrics that also remember how long the last answers took, for the autoscaling."""

    def __init__(self, latencies: Latencies, *, replica: str, role: str) -> None:
        super().__init__(replica=replica, role=role)
        self._latencies = latencies

    def answered(self, timing: Any, *, robot: str, protocol: str, actions: int = 0) -> None:
        """As `Metrics`."""
        super().answered(timing, robot=robot, protocol=protocol, actions=actions)
        self._latencies.add(timing)


def role_of(config: ServeConfig) -> Role:
    """What an ingress replica holds."""
    if not config.chat.enabled:
        return "control"
    return "unified" if config.actions.enabled and not config.actions.apart else "chat"


class Replica:
    """What both kinds are: an engine with its numbers, and answers to what Ray Serve asks of a replica."""

    async def _start(self, folder: str, config: ServeConfig, device: str, *, role: Role, latency_ms: float) -> None:
        """Load the model. latency_ms: what the pool's actions are meant to stay below."""
        replica = _name()
        set_up_logs(config.logs, replica=replica)
        self._latencies = Latencies(latency_ms)
        self._metrics = MeasuredMetrics(self._latencies, replica=replica, role=role)
        self._folder = await asyncio.to_thread(fetched, folder)
        self._engine = await start_engine(self._folder, config, device=device, role=role)

    async def check_health(self) -> None:
        """Asked by Ray Serve every few seconds; a replica that raises is replaced."""
        await self._engine.check()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What `autoscaling.replicas_wanted` looks at besides ongoing requests."""
        return {PRESSURE: self._latencies.pressure()}

    async def metrics(self) -> list[Family]:
        """This replica's numbers, for the replica that was asked for /metrics."""
        return families(self._metrics)

    async def __del__(self) -> None:
        if hasattr(self, "_engine"):
            await self._engine.close()


class Model(Replica):
    """A replica of the whole model, and the web application in front of it."""

    async def __init__(  # type: ignore[misc] # Ray Serve awaits it
        self, folder: str, config: ServeConfig, device: str, extras: Sequence[Extra] = (), control: Any = None
    ) -> None:
        """control: handle of the deployment of that name, if there is one."""
        await self._start(folder, config, device, role=role_of(config), latency_ms=config.model.latency_ms)
        service = make_service(self._folder, config, self._engine, control, self._metrics)
        self._sessions = Sessions()
        routes = [route for extra in extras for route in extra.routes(extra.worker)]
        if config.metrics:
            routes += metrics_routes(self._metrics, _peers([MODEL] + [CONTROL] * config.has_control))
        web = build_web(self._engine, service, config, routes, sessions=self._sessions, metrics=self._metrics)
        guarded = guard(web, config.guard, refused=self._metrics.refused, echo_request_id=False)
        self._app: ASGIApp = observe(guarded, self._metrics, requests=config.logs.requests)
        self._leaving = asyncio.create_task(when_stopping(lambda: self._sessions.drain(config.drain_s)))
        log("ready", model=folder, **self._engine.facts)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The web application of this replica."""
        return self._app


class Control(Replica):
    """A replica of the policy alone."""

    async def __init__(self, folder: str, config: ServeConfig, device: str) -> None:  # type: ignore[misc]
        await self._start(folder, config, device, role="control", latency_ms=config.control.latency_ms)
        assert self._engine.description is not None, "a control engine without a policy"
        self._service = BatchingService(
            self._engine.compute, self._engine.description, config.batches, metrics=self._metrics
        )
        log("ready", role="control", model=folder)

    async def act(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> tuple[list[ActionChunk], ComputeTiming]:
        """As `Engine.compute`; what several replicas ask at once is computed together."""
        answers = await self._service.infer(observations, seeds, prefixes)
        parts = answers[0].timing
        return [answer.chunk for answer in answers], ComputeTiming(
            preprocess_ms=parts.preprocess_ms, mllm_ms=parts.mllm_ms, denoise_ms=parts.denoise_ms
        )

    async def ready(self) -> bool:
        """Answers once the policy is loaded."""
        return True


def make_service(
    folder: Path, config: ServeConfig, engine: Engine, control: Any, metrics: Metrics
) -> BatchingService | None:
    """The batches of observations of an ingress replica; None for conversation alone."""
    from blm.model.checkpoint_files import read_folder

    if not config.actions.enabled:
        return None
    compute: Compute = engine.compute
    overflow: Compute | None = None
    description = engine.description
    if config.actions.apart:
        compute = overflow = ControlPool(control, wait=True)  # one batch at a time, and beside it what would wait
    elif control is not None:
        overflow = ControlPool(control, wait=False)
    if description is None:
        description = describe_served(read_folder(folder))
    return BatchingService(compute, description, config.batches, overflow=overflow, metrics=metrics)


def _name() -> str:
    """This replica's, short and unique."""
    from ray import serve

    context = serve.get_replica_context()
    return f"{context.deployment}-{context.replica_tag}"


def _peers(deployments: Sequence[str]) -> Callable[[], Any]:
    """How to ask all replicas of some deployments for their numbers."""
    from ray import serve

    async def ask() -> Iterable[Sequence[Family] | BaseException]:
        handles = [serve.get_deployment_handle(name, APPLICATION) for name in deployments]
        answers = [handle.broadcast("metrics").results_async(timeout_s=PEERS_S) for handle in handles]
        found: list[Sequence[Family] | BaseException] = []
        for answer in await asyncio.gather(*answers, return_exceptions=True):
            found += [answer] if isinstance(answer, BaseException) else answer
        return found

    return ask
