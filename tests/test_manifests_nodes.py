"""The nodes that cluster/ describes have room for what stages ask, and Slurm and `ray up` start what they should."""

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from small_kustomize import Object, render
from small_manifests import KUBERNETES, ROOT

from blm.cluster.asks import ASKS, KINDS, OFFER, Ask, asked
from blm.cluster.nodes import Node, place
from blm.pipelines.config import load_config
from blm.pipelines.schema import build
from blm.pipelines.stages import STAGES
from blm.serve.config import ServeConfig

AWS = ROOT / "cluster" / "aws" / "cluster.yaml"
SLURM = ROOT / "cluster" / "slurm" / "blm.sbatch"
UNITS = {"Mi": 2**-10, "Gi": 1.0, "Ti": 2.0**10}
MACHINES = {
    "m7i.2xlarge": (8, 0, 32),
    "m7i.4xlarge": (16, 0, 64),
    "p5.48xlarge": (192, 8, 2048),
    "g6e.12xlarge": (48, 4, 384),
}
"""EC2's machines: CPUs, GPUs, GiB of memory."""

Offer = tuple[Node, float]
"""A group of nodes at its largest, and the memory of each in GiB."""


def groups(cluster: Object) -> Iterator[Offer]:
    """Groups of workers of a KubeRay cluster."""
    for group in cluster["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        yield (
            node(
                cpus=float(group["resources"].get("CPU", limits["cpu"])),
                gpus=float(limits.get("nvidia.com/gpu", 0)),
                resources={name: float(amount) for name, amount in group["resources"].items()},
                count=group["maxReplicas"],
            ),
            gibibytes(limits["memory"]),
        )


def node(*, cpus: float, gpus: float, resources: dict[str, Any], count: int) -> Node:
    kinds = frozenset(kind for kind in KINDS if kind in resources)
    assert all(resources[kind] == OFFER for kind in kinds)
    return Node(cpus=cpus, gpus=gpus, kinds=kinds, count=count)


def gibibytes(quantity: str) -> float:
    return float(quantity[:-2]) * UNITS[quantity[-2:]]


def machines() -> Iterator[Offer]:
    """Kinds of workers of `ray up`."""
    said = yaml.safe_load(AWS.read_text())
    for name, kind in said["available_node_types"].items():
        cpus, gpus, memory = MACHINES[kind["node_config"]["InstanceType"]]
        offered = kind["resources"]
        assert offered["CPU"] in (0, cpus)
        assert offered.get("GPU", 0) == gpus
        if name != said["head_node_type"]:
            yield node(cpus=offered["CPU"], gpus=gpus, resources=offered, count=kind["max_workers"]), memory


def overlay(name: str) -> tuple[str, list[Offer]]:
    """(preset, groups) of an overlay's cluster."""
    rendered = render(KUBERNETES / "overlays" / name)
    (cluster,) = [one for one in rendered if one["kind"] == "RayCluster"]
    (settings,) = [one for one in rendered if one["kind"] == "ConfigMap"]
    return settings["data"]["BLM_PRESET"], list(groups(cluster["spec"]))


CLUSTERS = {"dev": overlay("dev"), "prod": overlay("prod"), "aws": ("paper", list(machines()))}


def short(preset: str, offered: list[Offer]) -> list[str]:
    """What a run of a preset asks for and does not get of nodes at their largest number."""
    resources = load_config(preset, [], name=None).resources
    wanted = {"simulator": resources.simulators, "trainer": resources.train_workers}
    found = []
    for stage in (stage.name for stage in STAGES if stage.name in ASKS):
        for role in ASKS[stage]:
            ask = asked(stage, role, device=resources.device)
            on_gpus = resources.device == "cuda"  # what the table says of memory is for models that want GPUs
            able = [node for node, memory in offered if not on_gpus or enough(ask, node, memory)]
            has_room = place(ask, able)
            many = wanted.get(role, 1)
            if has_room is None or has_room.kind != ask.kind or has_room.room < many:
                found.append(f"{many} {role} of {stage} on {ask.kind}: {has_room}")
    return found


def enough(ask: Ask, node: Node, memory: float) -> bool:
    """Whether a node has the memory of as many processes as its CPUs and GPUs make room for."""
    by_cpus = node.cpus // min(ask.cpus, node.cpus) if ask.cpus else 1
    processes = min(by_cpus, node.gpus // ask.gpus) if ask.gpus else by_cpus
    return ask.kind in node.kinds and max(processes, 1) * ask.memory_gb <= memory


@pytest.mark.parametrize("name", CLUSTERS)
def test_nodes_have_room_for_what_every_stage_of_the_preset_asks(name: str) -> None:
    preset, offered = CLUSTERS[name]
    assert short(preset, offered) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_is_missing_and_nodes_that_are_few_are_found(kind: str) -> None:
    preset, offered = CLUSTERS["prod"]
    assert any(f"on {kind}" in line for line in short(preset, [one for one in offered if kind not in one[0].kinds]))
    assert short(preset, [(node, 1.0) for node, _ in offered])  # a gibibyte each is for nobody


@pytest.mark.parametrize("name", ["dev", "prod"])
def test_replicas_of_the_server_fit_on_its_nodes(name: str) -> None:
    (service,) = [one for one in render(KUBERNETES / "overlays" / name / "serve") if one["kind"] == "RayService"]
    ((offered, memory),) = groups(service["spec"]["rayClusterConfig"])
    deployed = yaml.safe_load(service["spec"]["serveConfigV2"])
    config: ServeConfig = build(ServeConfig, deployed["applications"][0]["args"]["config"], where=name)
    assert "gpu-serve" in offered.kinds
    assert config.model.num_cpus <= offered.cpus
    if config.device == "cuda":
        model, control = (asked("serve", role) for role in ("model", "control"))
        assert (config.model.num_cpus, config.control.num_cpus) == (model.cpus, control.cpus)
        assert model.memory_gb <= memory
        assert config.model.max * model.gpus + config.control.max * control.gpus <= offered.count * offered.gpus


# -------------------------------------------------------------------------------------------------------- `ray up`


def test_ray_up_takes_the_file() -> None:
    said = yaml.safe_load(AWS.read_text())
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(said, schema)
    types = said["available_node_types"]
    assert said["head_node_type"] in types
    assert said["max_workers"] >= sum(kind.get("max_workers", 0) for kind in types.values())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(said | {"max_worker": 3}, schema)


# ----------------------------------------------------------------------------------------------------------- Slurm

STAND_IN = """#!/usr/bin/env bash
echo "$(basename "$0") $* ${RAY_ADDRESS:+RAY_ADDRESS=$RAY_ADDRESS}" >> "$TOLD"
"""
PROGRAMS = {
    "scontrol": 'if [[ "$1" == show ]]; then printf "node1\\nnode2\\n"; fi',
    "hostname": 'echo "10.0.0.1 fe80::1"',
    "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
    "python": 'echo "$(cat)" > "$TOLD.python"',
    "ray": 'if [[ "$1" == start ]]; then exec sleep 60; fi',
    "blm": """until [[ "$(grep -c "^ray start" "$TOLD")" == 2 ]]; do sleep 0.05; done
        if [[ -n "${SLOW:-}" ]]; then trap "exit 130" TERM; echo ready >> "$TOLD"; sleep 60 & wait; fi
        exit 3""",
}


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment in which Slurm's, Ray's and our programs note what they were told."""
    for name, body in PROGRAMS.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(STAND_IN + body + "\n")
        (tmp_path / "bin" / name).chmod(0o755)
    own = {"TOLD": str(tmp_path / "told"), "BLM_ENV": str(tmp_path), "USER": "robot"}
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_CPUS_PER_TASK": "64",
        "SLURM_GPUS_ON_NODE": "8",
    }
    return {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"} | own | job


def noted(slurm: dict[str, str], program: str) -> list[list[str]]:
    lines = Path(slurm["TOLD"]).read_text().splitlines()
    return [shlex.split(line.replace("'", "").replace('"', "")) for line in lines if line.startswith(f"{program} ")]


def test_slurm_starts_a_head_a_worker_a_node_and_the_command(slurm: dict[str, str]) -> None:
    words = ["bash", str(SLURM), "run", "--preset", "tiny", "--root", "/shared/runs"]
    done = subprocess.run(words, env=slurm, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 3, done.stderr  # the command's own
    starts = [words for words in noted(slurm, "ray") if words[1] == "start"]  # side by side, so in any order
    head, workers = sorted(starts, key=lambda words: "--head" not in words)
    assert {"--head", "--num-cpus=0", "--num-gpus=0", "--node-ip-address=10.0.0.1", "--port=6379"} <= set(head)
    assert {"--address=10.0.0.1:6379", "--num-cpus=64", "--num-gpus=8"} <= set(workers)
    assert all(f"{kind}: {OFFER}" in " ".join(workers) for kind in KINDS)
    assert not any(word.startswith("RAY_ADDRESS") for word in [*head, *workers])
    assert any("--nodes=2" in words and "--ntasks-per-node=1" in words for words in noted(slurm, "srun"))
    assert [words[1:3] for words in noted(slurm, "python")] == [["-", "3"]]  # the head and two workers are waited for
    compile(Path(slurm["TOLD"] + ".python").read_text(), "blm.sbatch", "exec")
    (command,) = noted(slurm, "blm")
    assert command[1:-1] == [*words[2:], "--address", "auto"]
    assert command[-1] == "RAY_ADDRESS=10.0.0.1:6379"


def test_slurm_hands_its_notice_on_and_runs_again(slurm: dict[str, str]) -> None:
    process = subprocess.Popen(["bash", str(SLURM), "run"], env=slurm | {"SLOW": "1"}, start_new_session=True)
    try:
        limit_s = time.monotonic() + 30
        while "ready" not in (Path(slurm["TOLD"]).read_text() if Path(slurm["TOLD"]).exists() else ""):
            assert time.monotonic() < limit_s
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 130
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert ["scontrol", "requeue", "7"] in [words[:3] for words in noted(slurm, "scontrol")]


def test_slurm_without_a_command_says_how(slurm: dict[str, str]) -> None:
    done = subprocess.run(["bash", str(SLURM)], env=slurm, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no command")
