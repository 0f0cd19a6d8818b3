"""A plan as people read it, and as JSON."""

import math
from collections.abc import Iterator
from typing import Any

from blm.pipelines.config import RunConfig
from blm.pipelines.planning.clusters import Cluster
from blm.pipelines.planning.costs import Costs
from blm.pipelines.planning.gpu import FORWARD, Gpu, Sight, mllm_flops, policy_flops
from blm.pipelines.planning.predict import RunPlan
from blm.pipelines.show import duration, size


def plan_table(plan: RunPlan, costs: Costs) -> str:
    """Time, money, size and first bottleneck of each stage, and of all."""
    head = f"  {'stage':<9}{'makes':>27}{'time':>14}{'USD':>14}{'leaves':>10}  waits for"
    lines = [f"  unit costs: {costs.measured_on}", head]
    for stage in plan.stages:
        lines.append(
            f"  {stage.name:<9}{stage.makes:>27}{_long(stage.seconds):>14}{plan.usd(stage):>14,.2f}"
            f"{size(stage.output_bytes):>10}  {stage.bottleneck}"
        )
    lines.append(
        f"  {'all':<9}{'':>27}{_long(plan.seconds):>14}{plan.usd_used:>14,.2f}{size(1e9 * plan.gigabytes):>10}"
    )
    slowest = plan.slowest
    share = slowest.seconds / plan.seconds
    lines.append(f"  first bottleneck: {slowest.name}, {share:.0%} of the time, waits for {slowest.bottleneck}")
    if plan.cluster.local:
        return "\n".join(lines)
    lines.append(
        f"  money: {plan.usd_used:,.0f} USD if nodes are given back while a stage does not use them, "
        f"{plan.usd_held:,.0f} USD if all are held; the storage {plan.usd_month:,.0f} USD a month"
    )
    if any(group.gpus for group in plan.cluster.groups.values()):
        lines.append("  GPU times and prices are not measured: they follow from assumptions in the file of costs")
    return "\n".join(lines)


def unit_line(plan: RunPlan) -> str:
    """What one unit of each stage's work costs on these nodes: wall time and money over units."""
    rows = [
        f"{stage.unit} {_short(stage.seconds / stage.count)} ({_cents(plan.usd(stage) / stage.count)})"
        for stage in plan.stages
        if stage.count
    ]
    return "  a unit, all in: " + ", ".join(rows)


def request_lines(rate_hz: float | None, cluster: Cluster, config: RunConfig, costs: Costs) -> Iterator[str]:
    """How many replicas answer so many requests for actions a second, and what a million of them cost."""
    if rate_hz is None:
        return
    group = cluster.groups["local"] if cluster.local else cluster.group_for("serve", "model", device="cpu")
    if group.gpus and config.stage1.backbone != "tiny":
        model, gpu = (
            costs.gpu.backbone(config.stage1.backbone),
            Gpu(costs=costs.gpu, peak_tflops=group.node.peak_tflops),
        )
        sight = Sight(
            pictures=len(config.world.cameras),
            image_px=config.world.image_px,
            text_tokens=config.intents.max_text_tokens,
        )
        share = config.intents.layer / model.layers
        acting = policy_flops(config.stage2.policy, sight, model.width, draws=1, per_weight=FORWARD)
        each_s = gpu.inference_s(mllm_flops(model, sight, per_weight=FORWARD, share=share))
        each_s += config.evaluate.euler_steps * gpu.policy_s(acting)
        per_node = group.node.gpus / each_s
    else:
        per_node = group.node.cores / costs.cpu.request_s
    nodes = math.ceil(rate_hz / per_node)
    usd = 1e6 / (per_node * 3600) * group.node.usd_h
    yield (
        f"  serving {rate_hz:g} requests/s: {nodes} x {group.kind}, {per_node:.0f} requests/s each, "
        f"{usd:.2f} USD a million"
    )


def as_json(plan: RunPlan) -> dict[str, Any]:
    """The plan for programs."""
    return {
        "seconds": round(plan.seconds, 1),
        "usd_used": round(plan.usd_used, 2),
        "usd_held": round(plan.usd_held, 2),
        "gigabytes": round(plan.gigabytes, 1),
        "usd_month": round(plan.usd_month, 2),
        "first_bottleneck": {"stage": plan.slowest.name, "waits_for": plan.slowest.bottleneck},
        "stages": {
            stage.name: {
                "seconds": round(stage.seconds, 1),
                "usd": round(plan.usd(stage), 2),
                "bytes": round(stage.output_bytes),
                "makes": stage.makes,
                "waits_for": stage.bottleneck,
                "phases": {phase.name: round(phase.seconds, 1) for phase in stage.phases},
            }
            for stage in plan.stages
        },
    }


def _long(seconds: float) -> str:
    """Days where there are some."""
    return duration(seconds) if seconds < 2 * 86400 else f"{seconds / 86400:,.1f} days"


def _short(seconds: float) -> str:
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _cents(usd: float) -> str:
    return f"{usd:.2g} USD"
