"""`blm doctor --cluster`: what is made of a node's facts, and a real cluster of two nodes looked at."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from blm.model.errors import UserError
from blm.pipelines import doctor
from blm.pipelines.doctor_cluster import COLUMNS, Examined, judge, table
from blm.pipelines.doctor_node import package_hash, storage

OWN = {"versions": {"ray": "2.60.0", "torch": "2.13.0"}, "code": "a" * 64}
GOOD = {
    "host": "one",
    "python": "3.11.7",
    "versions": OWN["versions"],
    "code": OWN["code"],
    "storage": {"status": "ok", "detail": "sees /runs"},
    "assets": {"status": "ok", "detail": "lite: panda"},
    "renderer": {"status": "ok", "detail": "112x112 px on lavapipe"},
    "gpus": None,
}


def examined(name: str = "one", *, skew_s: float = 0.0, gpus: float = 0.0, **changed: Any) -> Examined:
    findings = list(judge(GOOD | changed, OWN, skew_s=skew_s, doubt_s=0.01, gpus=gpus))
    return Examined(name=name, kinds="cpu-sim", findings=findings)


def faults(one: Examined) -> list[str]:
    return [finding.name for finding in one.findings if finding.status == "FAIL"]


def test_a_node_like_the_driver_has_no_fault() -> None:
    one = examined()
    assert faults(one) == []
    assert [one.status(name) for name in COLUMNS] == ["ok"] * 7 + ["-"]  # without GPUs nobody asks for them


@pytest.mark.parametrize(
    ("fault", "changed"),
    [
        ("versions", {"versions": {"ray": "2.59.0", "torch": "2.13.0"}}),
        ("code", {"code": "b" * 64}),
        ("clock", {"skew_s": 3.0}),
        ("storage", {"storage": {"status": "FAIL", "detail": "does not see /runs"}}),
        ("assets", {"assets": {"status": "FAIL", "detail": "panda is missing"}}),
        ("renderer", {"renderer": {"status": "FAIL", "detail": "no Vulkan"}}),
        ("gpus", {"gpus": 8.0, "facts_gpus": 0}),
    ],
)
def test_each_fault_is_found_alone_and_has_a_cure(fault: str, changed: dict[str, Any]) -> None:
    seen = changed.pop("facts_gpus", None)
    facts = GOOD | {key: value for key, value in changed.items() if key in GOOD and key != "gpus"}
    facts |= {"gpus": seen} if seen is not None else {}
    found = list(judge(facts, OWN, skew_s=changed.get("skew_s", 0.0), doubt_s=0.01, gpus=changed.get("gpus", 0.0)))
    one = Examined(name="one", kinds="", findings=found)
    assert faults(one) == [fault]
    assert next(finding for finding in found if finding.status == "FAIL").mend


def test_a_slow_answer_is_no_wrong_clock() -> None:
    found = list(judge(GOOD, OWN, skew_s=1.5, doubt_s=0.8, gpus=0))
    assert all(finding.status == "ok" for finding in found)


def test_equal_faults_of_several_nodes_have_one_cure() -> None:
    nodes = [examined("one"), examined("two", code="b" * 64), examined("three", code="c" * 64)]
    lines = list(table(nodes))
    assert lines[0].split() == ["node", "kinds", *COLUMNS]
    assert sum("mend:" in line for line in lines) == 1
    assert "two: code: bbbbbbbbbbbb, driver aaaaaaaaaaaa" in lines
    assert lines[-1] == "1 of 3 nodes are fit"


def test_a_folder_that_a_node_does_not_see_is_told(tmp_path: Path) -> None:
    token = (str(tmp_path / ".doctor-1"), "word")
    for content, status in ((None, "FAIL"), ("other", "FAIL"), ("word", "ok")):
        if content is not None:
            (tmp_path / ".doctor-1").write_text(content)
        found = storage(token)
        assert found is not None
        assert found["status"] == status
    assert storage(None) is None


def test_the_code_hash_is_of_what_is_installed() -> None:
    assert package_hash() == package_hash()
    assert len(package_hash()) == 64


def test_an_address_that_no_driver_can_join_is_refused(tmp_path: Path) -> None:
    options = argparse.Namespace(json=False, cluster=True, address="ray://127.0.0.1:10001", root=str(tmp_path))
    with pytest.raises(UserError, match="Ray Client"):
        doctor.main("doctor", options)
    assert not list(tmp_path.iterdir())


@pytest.mark.ray
@pytest.mark.slow
def test_two_nodes_are_looked_at_where_they_are(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    from blm.cluster.ray_runtime import set_environment

    set_environment()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 10**8})
    try:
        cluster.add_node(num_cpus=1, resources={"gpu-serve": 1000}, object_store_memory=10**8)
        words = ["doctor", "--cluster", "--json", "--address", cluster.address, "--root", str(tmp_path / "runs")]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        command = [sys.executable, "-m", "blm.pipelines.cli", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=170, env=environment, check=False)
    finally:
        cluster.shutdown()
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert sorted(node["kinds"] for node in found["nodes"]) == ["gpu-serve", "head"]
    statuses = {finding["status"] for node in found["nodes"] for finding in node["findings"]}
    assert statuses == {"ok"}
    assert not list((tmp_path / "runs").glob(".doctor-*"))
