"""The page `/metrics`: every replica's numbers in Prometheus's text form, whichever replica is asked.

The server has one port and several replicas behind it, so a scrape reaches one of them by chance. Whoever is asked
therefore asks the others (`Peers`) and shows all, each sample labelled with its replica and role. Ray's own metrics
agents would do the same by a port on every node; this needs nothing but the port that is open anyway. What Ray Serve
counts about itself stays there (docs/observability.md).

Beside our own numbers a page has those of the process (memory, processor time, open files) and vLLM's, which count in
the same process: tokens, time to first token, conversations that run and wait, cache.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from blm.serve.observability.logs import log
from blm.serve.observability.metrics import Metrics

PEERS_S = 2.0
"""How long other replicas are waited for; a page without them is better than none."""
_FOREIGN = ("vllm:", "process_")
"""Beginnings of the names that are taken from the process's global registry."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One metric of one replica, as plain values that cross between processes."""

    name: str
    kind: str
    help: str
    samples: tuple[tuple[str, tuple[tuple[str, str], ...], float], ...]
    """(name, labels, value) each."""


Peers = Callable[[], Awaitable[Iterable[Sequence[Family] | BaseException]]]
"""Asks all replicas, this one may be among them, for their families."""


def families(metrics: Metrics, foreign: CollectorRegistry = REGISTRY) -> list[Family]:
    """All that a replica counts, labelled with its name and role. foreign: where vLLM and the process count."""
    always = (("replica", metrics.replica), ("role", metrics.role))
    theirs = [one for one in foreign.collect() if one.name.startswith(_FOREIGN)]
    return [
        Family(
            name=metric.name,
            kind=metric.type,
            help=metric.documentation,
            samples=tuple(
                (sample.name, (*sample.labels.items(), *always), float(sample.value))
                for sample in metric.samples
                if not sample.name.endswith("_created")
            ),
        )
        for metric in (*metrics.registry.collect(), *theirs)
    ]


def page(replicas: Iterable[Sequence[Family]]) -> bytes:
    """The text of several replicas' families: each metric once, the samples of all replicas under it."""
    merged: dict[str, Metric] = {}
    for family in (family for replica in replicas for family in replica):
        metric = merged.setdefault(family.name, Metric(family.name, family.help, family.kind))
        for name, labels, value in family.samples:
            metric.add_sample(name, dict(labels), value)
    return generate_latest(_Collected(list(merged.values())))


class _Collected(CollectorRegistry):
    """A registry of what was collected already."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        super().__init__()
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """The metrics."""
        return iter(self._metrics)


async def gather(metrics: Metrics, peers: Peers | None) -> list[Sequence[Family]]:
    """This replica's families, now, and those of the others that answer in time."""
    found: dict[str, Sequence[Family]] = {}
    if peers is not None:
        try:
            for replica in await asyncio.wait_for(_listed(peers), PEERS_S):
                if not isinstance(replica, BaseException) and replica:
                    found[_name(replica)] = replica
        except Exception as error:  # whatever is wrong with the others, our own numbers are wanted all the more
            log("metrics of other replicas are missing", level=30, why=f"{type(error).__name__}: {error}")
    found[metrics.replica] = families(metrics)
    return [found[name] for name in sorted(found)]


async def _listed(peers: Peers) -> list[Sequence[Family] | BaseException]:
    return list(await peers())


def _name(replica: Sequence[Family]) -> str:
    return next(dict(labels)["replica"] for family in replica for _, labels, _ in family.samples)


def metrics_routes(metrics: Metrics, peers: Peers | None = None) -> list[Route]:
    """`GET /metrics`. peers: how to ask the other replicas; None where there are none."""

    async def answer(request: Request) -> Response:
        """All replicas' numbers, in Prometheus's text form."""
        text = page(await gather(metrics, peers))
        return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4, headers={"Cache-Control": "no-store"})

    return [Route("/metrics", answer, methods=["GET"])]
