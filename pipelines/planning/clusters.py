"""The nodes a plan is made for: `cpu-sim=8,gpu-train=2`, and where each kind of work goes on them.

A kind of work has a kind of node it wants; where there is none, it goes wherever there is room, as on the cluster
itself. The head drives and does no work. A machine alone (`local`) does everything.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from blm.cluster.asks import asked
from blm.model.errors import UserError
from blm.pipelines.planning.costs import Costs, NodeCosts
from blm.pipelines.schema import nearest

ELSEWHERE = ("gpu-serve", "gpu-train", "cpu-sim")
"""Where work goes without a node of the kind it asks for, the first of these that is there and can do it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The nodes of one kind."""

    kind: str
    count: int
    node: NodeCosts

    @property
    def cores(self) -> int:
        """Of all of them."""
        return self.count * self.node.cores

    @property
    def gpus(self) -> int:
        """Of all of them."""
        return self.count * self.node.gpus

    @property
    def usd_h(self) -> float:
        """Of all of them, an hour."""
        return self.count * self.node.usd_h


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Nodes by kind, and what they share."""

    groups: Mapping[str, Group]
    head: NodeCosts | None
    """None: the driver's machine is one of the groups."""
    storage_gb_s: float
    store: bool = False
    """Whether files are in an object store and not on a file system that all nodes see."""

    @property
    def local(self) -> bool:
        """Whether one machine does everything."""
        return "local" in self.groups

    def group_for(self, stage: str, role: str, *, device: str) -> Group:
        """Where a role of a stage works, models being on `cpu` or `cuda`. UserError if no node can do it."""
        if self.local:
            return self.groups["local"]
        ask = asked(stage, role, device=device)
        for kind in (ask.kind, *ELSEWHERE):
            group = self.groups.get(kind)
            if group is not None and group.node.gpus >= ask.gpus:
                return group
        raise UserError(f"{stage} wants GPUs (its {role}s), and no node has any; add {ask.kind}=COUNT to --nodes")

    def usd_h(self, kinds: frozenset[str]) -> float:
        """The head and the nodes of some kinds, an hour."""
        return (self.head.usd_h if self.head else 0.0) + sum(self.groups[kind].usd_h for kind in kinds)

    def bandwidth(self, group: Group) -> float:
        """Bytes a second that all nodes of a group together read or write."""
        return 1e9 * min(group.count * group.node.network_gb_s, self.storage_gb_s)

    @property
    def driver_bandwidth(self) -> float:
        """Bytes a second between the driver and the storage."""
        node = self.head or next(iter(self.groups.values())).node
        return 1e9 * min(node.network_gb_s, self.storage_gb_s)


def parse_nodes(text: str, costs: Costs, *, store: bool = False) -> Cluster:
    """A cluster from `kind=count,kind=count`. UserError for kinds that are not known, and counts below 1."""
    groups = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        kind, equals, count = part.partition("=")
        if kind not in costs.nodes or kind in ("head", "local"):
            known = [name for name in costs.nodes if name not in ("head", "local")]
            raise UserError(f"--nodes {text}: there is no kind {kind!r}; {nearest(kind, known)}")
        if not equals or not count.isdigit() or int(count) < 1:
            raise UserError(f"--nodes {text}: write {kind}=COUNT with a count of 1 or more")
        groups[kind] = Group(kind=kind, count=int(count), node=costs.nodes[kind])
    if not groups:
        raise UserError("--nodes names no nodes; write for example cpu-sim=8,gpu-train=2")
    return Cluster(groups=groups, head=costs.nodes["head"], storage_gb_s=costs.storage.gb_s, store=store)


def this_machine(costs: Costs, *, cores: int) -> Cluster:
    """One machine with that many cores and no GPU, which is driver and workers at once."""
    local = costs.nodes["local"]
    node = NodeCosts(
        cores=cores, gpus=0, peak_tflops=0.0, network_gb_s=local.network_gb_s, usd_h=local.usd_h * cores / local.cores
    )
    return Cluster(groups={"local": Group(kind="local", count=1, node=node)}, head=None, storage_gb_s=node.network_gb_s)
