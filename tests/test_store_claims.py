"""One driver at a time for a run in a store."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from blm.cluster.claims import CLAIMS, Claim, claimed, holder, node_id
from blm.cluster.stores import Store
from blm.model.errors import UserError

HOLD = """
import sys, time
from blm.cluster.claims import claimed
with claimed(sys.argv[1], "run", sys.argv[2], beat_s=0.2, stale_s=3):
    print("held", flush=True)
    time.sleep(60)
"""


def start(uri: str, node: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, uri, node], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_living_driver_keeps_others_out_and_a_dead_one_does_not(s3_store: str) -> None:
    other = start(s3_store, "node a")
    store = Store(s3_store, patience_s=5)
    assert holder(store, "run") is not None
    refused = pytest.raises(UserError, match=rf"in use by process {other.pid} on .*--name")
    with refused, claimed(s3_store, "run", "node b", stale_s=30):
        pass
    with claimed(s3_store, "another run", "node b") as claim:
        claim.check()
    os.kill(other.pid, signal.SIGKILL)
    other.communicate()
    began_s = time.monotonic()
    with claimed(s3_store, "run", "node b", stale_s=3) as claim:
        assert time.monotonic() - began_s > 3
        claim.check()
        assert len(store.list(f"run/{CLAIMS}")) == 1
    assert holder(store, "run") is None


def test_a_dead_driver_of_this_node_is_not_waited_for(s3_store: str) -> None:
    other = start(s3_store, "node a")
    os.kill(other.pid, signal.SIGKILL)
    other.communicate()
    began_s = time.monotonic()
    with claimed(s3_store, "run", "node a", stale_s=60):
        assert time.monotonic() - began_s < 30


def test_a_driver_that_lost_its_claim_is_told(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/store"
    with claimed(uri, "run", "node a", beat_s=0.1, stale_s=60) as claim:
        claim.check()
        Store(uri, patience_s=1).delete([claim.name])  # another driver took it for dead
        while not claim.record["beat"] or not _lost(claim):
            time.sleep(0.05)
    with claimed(uri, "run", "node a", beat_s=60, stale_s=0.2) as claim:
        time.sleep(0.3)
        assert _lost(claim)


def _lost(claim: Claim) -> bool:
    try:
        claim.check()
    except UserError as error:
        return "has lost the run" in str(error)
    return False


def test_of_many_that_ask_at_once_one_at_most_holds(tmp_path: Path) -> None:
    uri, inside, most, refused = f"file://{tmp_path}/store", [0], [0], [0]
    lock = threading.Lock()

    def ask(node: str) -> None:
        try:
            with claimed(uri, "run", node, beat_s=0.2, stale_s=30):
                with lock:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                time.sleep(2.5)
                with lock:
                    inside[0] -= 1
        except UserError:
            with lock:
                refused[0] += 1

    askers = [threading.Thread(target=ask, args=(f"node {number}",)) for number in range(5)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert most[0] == 1
    assert refused[0] >= 1


def test_a_scratch_folder_has_one_identity(tmp_path: Path) -> None:
    assert node_id(tmp_path / "a") == node_id(tmp_path / "a")
    assert node_id(tmp_path / "a") != node_id(tmp_path / "b")
    assert len(list((tmp_path / "a").iterdir())) == 1


def test_what_is_no_claim_is_left_alone(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/store"
    store = Store(uri, patience_s=1)
    store.write(json.dumps({"of": "another version"}).encode(), f"run/{CLAIMS}/x.json")
    store.write(b"no JSON", f"run/{CLAIMS}/y.json")
    with claimed(uri, "run", "node a"):
        assert "on" in (holder(store, "run") or "")
