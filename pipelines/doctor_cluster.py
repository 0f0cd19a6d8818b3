"""`blm doctor --cluster`: every node of a running cluster, looked at where it is: one table, and one cure a fault.

The driver's machine is the measure: other nodes must have its versions and its code, see what it sees, and tell its
time. A picture is drawn where pictures will be drawn: on nodes of the kind cpu-sim, or of no kind.
"""

import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blm.cluster import depot, ray_runtime
from blm.cluster.asks import KINDS
from blm.model.errors import UserError
from blm.pipelines.doctor import Finding
from blm.pipelines.doctor_node import Examiner, package_hash
from blm.pipelines.fingerprint import versions

ANSWER_S = 150.0
"""For all nodes together, a picture included."""
SKEW_S = 1.0
COLUMNS = ("answers", "versions", "code", "clock", "storage", "assets", "renderer", "gpus")
MOUNT = "mount the folder there under the same path, or keep runs in a store that every node reaches: --root s3://..."
IMAGE = "give every node the same image or wheel (docs/cluster.md), then restart its Ray"


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """One node, and what came of each check."""

    name: str
    kinds: str
    findings: Sequence[Finding]

    def status(self, check: str) -> str:
        """`ok`, `warn`, `FAIL`, or `-` for a check that was not made."""
        return next((finding.status for finding in self.findings if finding.name == check), "-")


def doctor_cluster(*, address: str | None, root: str | None, as_json: bool) -> int:
    """Look at every node and print what was found. Returns 0, or 1 if anything is broken.

    root: where runs live, a folder or a store; without it no node is asked what it reaches. UserError if no cluster can
    be joined.
    """
    place = depot.enter(root) if root is not None else None
    ray_runtime.connect(num_cpus=1, address=address or os.environ.get("RAY_ADDRESS") or "auto")
    try:
        token = None if place is None or depot.has_store() else _token(place)
        try:
            examined = examine(token)
        finally:
            if token is not None:
                Path(token[0]).unlink(missing_ok=True)
    finally:
        ray_runtime.disconnect()
    broken = [f for one in examined for f in one.findings if f.status == "FAIL"]
    if as_json:
        print(json.dumps({"ok": not broken, "nodes": [asdict(one) for one in examined]}))
    else:
        print("\n".join(table(examined)))
        if place is None and not depot.has_store():
            print("storage was not tried: give --root, as `blm run` gets it")
    return 1 if broken else 0


def _token(root: Path) -> tuple[str, str]:
    """A file in the folder of runs that other nodes must see, and what it holds."""
    path, content = root.resolve() / f".doctor-{os.getpid()}", secrets.token_hex(8)
    try:
        root.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    except OSError as error:
        raise UserError(f"nothing can be written to {root} ({error.strerror}); give another --root") from error
    return str(path), content


def examine(token: tuple[str, str] | None) -> list[Examined]:
    """Every node of the cluster that is connected, in the order of their names; those that are gone are told too."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    examiner = ray.remote(Examiner)
    asked = []
    listed = ray.nodes()
    for node in listed:
        if not node["Alive"]:
            continue
        kinds = tuple(kind for kind in KINDS if kind in node["Resources"])
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        actor = examiner.options(num_cpus=0, scheduling_strategy=place).remote()
        draws = node["Resources"].get("CPU", 0) > 0 and (not kinds or "cpu-sim" in kinds)
        gpus = node["Resources"].get("GPU", 0)
        facts = actor.facts.remote(token=token, gpus=gpus, renderer=draws)
        asked.append((node, kinds, actor, facts))
    ray.wait([facts for *_, facts in asked], num_returns=len(asked), timeout=ANSWER_S)
    own = {"versions": versions(), "code": package_hash()}
    found = []
    for node, kinds, actor, reference in asked:
        name = f"{node['NodeName'] or node['NodeManagerAddress']} {node['NodeID'][:6]}"
        words = " ".join(kinds) or ("of no kind" if node["Resources"].get("CPU", 0) else "head")
        try:
            facts = ray.get(reference, timeout=0.1)
            skew, doubt = _skew(actor)
        except Exception as error:  # a node that dies, hangs, or cannot import blm: all are its fault and not ours
            found.append(Examined(name=name, kinds=words, findings=[_silent(error)]))
            continue
        gpus = node["Resources"].get("GPU", 0)
        findings = list(judge(facts, own, skew_s=skew, doubt_s=doubt, gpus=gpus))
        found.append(Examined(name=name, kinds=words, findings=findings))
    return sorted(found, key=lambda one: one.name)


def _skew(actor: Any) -> tuple[float, float]:
    """(node's clock ahead of ours, half the round trip) in seconds, by the quickest of five calls."""
    import ray

    tries = []
    for _ in range(5):
        before = time.time()
        there = ray.get(actor.now.remote(), timeout=10)
        after = time.time()
        tries.append((after - before, there - (before + after) / 2))
    round_trip, ahead = min(tries)
    return ahead, round_trip / 2


def _silent(error: Exception) -> Finding:
    """Why a node did not answer."""
    lines = str(error).strip().splitlines()
    missing = "No module named 'blm" in str(error)
    detail = "blm is not installed there" if missing else f"{type(error).__name__}: {lines[0][:160] if lines else ''}"
    return Finding(name="answers", status="FAIL", detail=detail, mend=IMAGE if missing else "restart Ray on that node")


def judge(
    facts: dict[str, Any], own: dict[str, Any], *, skew_s: float, doubt_s: float, gpus: float
) -> Iterator[Finding]:
    """What a node's facts say, beside the driver's own `versions` and `code`."""
    yield Finding(name="answers", status="ok", detail=f"{facts['host']}, Python {facts['python']}")
    theirs = facts["versions"]
    differ = [f"{name} {theirs.get(name)} (driver {ours})" for name, ours in own["versions"].items()
              if theirs.get(name) != ours]  # fmt: skip
    yield _finding("versions", not differ, ", ".join(differ) or "as the driver's", IMAGE)
    same = facts["code"] == own["code"]
    yield _finding("code", same, f"{facts['code'][:12]}{'' if same else ', driver ' + own['code'][:12]}", IMAGE)
    late = abs(skew_s) > SKEW_S + doubt_s
    yield _finding(
        "clock",
        not late,
        f"{skew_s:+.2f} s (within {doubt_s:.2f})",
        "keep its time by NTP: timedatectl set-ntp true, or chronyd",
    )
    reached = facts["storage"]
    if reached is not None:
        yield _finding("storage", reached["status"] == "ok", reached["detail"], MOUNT)
    yield _finding("assets", facts["assets"]["status"] == "ok", facts["assets"]["detail"], IMAGE)
    if facts["renderer"] is not None:
        drawn = facts["renderer"]
        yield _finding(
            "renderer", drawn["status"] == "ok", drawn["detail"], "install Vulkan there: `make setup`, or the image"
        )
    if facts["gpus"] is not None:
        yield _finding(
            "gpus",
            facts["gpus"] >= gpus,
            f"PyTorch sees {facts['gpus']}, Ray offers {gpus:g}",
            "install PyTorch with CUDA there, or start its Ray with --num-gpus 0",
        )


def _finding(name: str, good: bool, detail: str, mend: str) -> Finding:
    return Finding(name=name, status="ok" if good else "FAIL", detail=detail, mend="" if good else mend)


def table(examined: Sequence[Examined]) -> Iterator[str]:
    """One row a node, one column a check; below it every fault with its cure, equal cures once."""
    width = max(len(one.name) for one in examined) if examined else 4
    yield f"{'node':<{width}}  {'kinds':<20}" + "".join(f"{name:>10}" for name in COLUMNS)
    for one in examined:
        yield f"{one.name:<{width}}  {one.kinds:<20}" + "".join(f"{one.status(name):>10}" for name in COLUMNS)
    cures: dict[str, list[str]] = {}
    for one in examined:
        for finding in one.findings:
            if finding.status == "FAIL":
                cures.setdefault(finding.mend, []).append(f"{one.name}: {finding.name}: {finding.detail}")
    for mend, faults in cures.items():
        yield ""
        yield from faults
        yield f"      mend: {mend}"
    good = sum(all(finding.status != "FAIL" for finding in one.findings) for one in examined)
    yield ""
    yield f"{good} of {len(examined)} nodes are fit"
