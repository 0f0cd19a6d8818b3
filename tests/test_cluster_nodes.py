"""What is asked of which kind of node, and what becomes of it on the cluster that is there. Without Ray."""

import json
import socket
import time
from dataclasses import replace

import pytest

from blm.cluster import asks, joining, nodes
from blm.cluster.asks import ASKS, DATA, KINDS, asked
from blm.cluster.nodes import Node, Place, describe, per_worker, place
from blm.model.errors import UserError
from blm.pipelines.stages import STAGES
from blm.pipelines.workers import _world
from blm.pipelines.workspace import ResourceConfig

HEAD = Node()
SIM = Node(cpus=32, kinds=frozenset({"cpu-sim"}))
TRAIN = Node(cpus=16, gpus=8, kinds=frozenset({"gpu-train"}))
SERVE = Node(cpus=16, gpus=1, kinds=frozenset({"gpu-serve"}))
EVERY_KIND = (HEAD, SIM, TRAIN, SERVE)
ROLES = [(stage, role) for stage, roles in ASKS.items() for role in roles]


def test_every_stage_but_the_report_says_what_it_asks_of_which_kind() -> None:
    assert set(ASKS) == {stage.name for stage in STAGES if stage.needs_ray} | {"ingest", "serve"}
    assert {ASKS[stage][role].kind for stage, role in ROLES} == set(KINDS)
    with pytest.raises(KeyError):
        asked("collect", "trainer")


@pytest.mark.parametrize(("stage", "role"), ROLES)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_on_nodes_of_every_kind_each_role_stays_on_its_own(stage: str, role: str, device: str) -> None:
    ask = asked(stage, role, device=device)
    found = place(ask, EVERY_KIND)
    assert found is not None
    assert found.kind == ask.kind
    assert found.room >= 1
    assert ask.gpus == 0 or device == "cuda"


@pytest.mark.parametrize(("stage", "role"), ROLES)
def test_on_two_cores_every_role_has_room_and_asks_for_one_core_at_most(stage: str, role: str) -> None:
    found = place(asked(stage, role, device="cpu"), [Node(cpus=2)])
    assert found is not None
    assert found.kind == ""
    assert found.cpus <= 1
    assert found.room >= 2


def test_what_works_beside_training_never_waits_for_its_cores() -> None:
    simulator = asked("stage2", "simulator")
    beside = place(simulator, [Node(cpus=2)])
    apart = place(simulator, [Node(cpus=2), SIM])
    assert beside is not None
    assert apart is not None
    assert (beside.cpus, beside.kind) == (0, "")
    assert (apart.cpus, apart.kind) == (1, "cpu-sim")


def test_trainers_share_the_cores_of_a_node_so_that_all_its_gpus_train() -> None:
    found = place(asked("stage1", "trainer"), EVERY_KIND)
    assert found == Place(cpus=2, gpus=1, kind="gpu-train", room=8)
    assert per_worker(found) == {"CPU": 2, "GPU": 1, "gpu-train": 1}


def test_without_nodes_of_its_kind_work_goes_wherever_there_is_room_but_not_to_the_head() -> None:
    found = place(DATA, [HEAD, TRAIN, SERVE])
    assert found == Place(cpus=1, gpus=0, kind="", room=32)
    assert place(DATA, [HEAD]) is None
    assert place(asked("stage1", "trainer"), [HEAD, SIM]) is None


def test_nodes_that_the_autoscaler_may_start_count_as_if_they_were_there() -> None:
    offer = {"CPU": 16.0, "GPU": 8.0, "gpu-train": 1000.0}
    waiting = nodes.startable(
        [(offer, 3), ({"CPU": 32.0, "cpu-sim": 1000.0}, 1), ({"CPU": 4.0}, 0)], [HEAD, SIM, TRAIN]
    )
    assert waiting == [replace(TRAIN, count=2, alive=False)]
    found = place(asked("stage1", "trainer"), [HEAD, SIM, *waiting])
    assert found == Place(cpus=2, gpus=1, kind="gpu-train", room=16)
    assert nodes.startable([(offer, -1)], []) == [replace(TRAIN, count=nodes.MANY, alive=False)]


def test_one_line_says_what_is_there_and_whose_work_goes_anywhere() -> None:
    assert describe([HEAD, SIM, SIM, replace(TRAIN, alive=False)]) == (
        "3 nodes, 64 CPUs, 0 GPUs; 2 cpu-sim; 0 gpu-train; no gpu-serve node: that work goes wherever there is room"
    )


def test_a_node_is_of_the_kinds_whose_resource_it_offers() -> None:
    offer = {"CPU": 4.0, "gpu-train": float(asks.OFFER), "gpu-serve": 1.0, "memory": 1e9}
    assert nodes._node(offer) == Node(cpus=4, kinds=frozenset({"gpu-train", "gpu-serve"}))


def test_nothing_waits_for_a_node_that_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "there", lambda: [HEAD, SIM])
    monkeypatch.setattr(nodes, "_demand", lambda ask: None)  # there is no Ray to tell
    with pytest.raises(UserError, match=r"no node of the cluster has 1 GPU and 1 CPU to offer; add one \(gpu-train\)"):
        nodes.options(asked("intents", "model"), patience_s=0.0)
    assert nodes.options(DATA) == {"num_cpus": 1, "num_gpus": 0, "resources": {"cpu-sim": 1}}
    assert nodes.fitting(100, DATA) == 32
    assert nodes.fitting("auto", DATA) == 32
    assert nodes.fitting(3, DATA) == 3


def test_the_first_node_is_waited_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen, demanded = iter([[HEAD], [HEAD], [HEAD, SIM]]), []
    monkeypatch.setattr(nodes, "_demand", demanded.append)
    monkeypatch.setattr(nodes, "there", lambda: next(seen))
    monkeypatch.setattr(nodes, "LOOK_EVERY_S", 0.0)
    assert nodes.placed(DATA).kind == "cpu-sim"
    assert demanded == [DATA]
    assert capsys.readouterr().out == "[ray] no node has 1 CPU to offer yet; waiting up to 600 s for one\n"


def test_training_has_a_fixed_size_on_one_machine_and_is_elastic_on_several() -> None:
    three = ResourceConfig(train_workers=3)
    assert _world(three, 2, several=False) == 2
    assert _world(three, 0, several=False) == 1
    assert _world(three, 2, several=True) == (1, 3)
    assert _world(replace(three, least_train_workers=2), 2, several=True) == (2, 3)
    assert _world(replace(three, least_train_workers=3), 2, several=True) == 3


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("ray://head:10001", "a Ray Client address"),
        ("http://head:8265", "a dashboard's, where jobs are sent to"),
        ("head", "neither auto, local nor HOST:PORT"),
        ("head:port", "neither auto, local nor HOST:PORT"),
    ],
)
def test_addresses_that_no_driver_can_join_are_refused_with_the_reason(address: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        joining.check_address(address)


@pytest.mark.parametrize("address", ["auto", "10.0.0.1:6379", "head.svc.cluster.local:6379", "[::1]:6379"])
def test_addresses_of_a_head_are_taken(address: str) -> None:
    joining.check_address(address)


def test_a_head_that_is_not_there_is_one_line_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, and nobody listens
        address = f"127.0.0.1:{free.getsockname()[1]}"
        began_s = time.monotonic()
        with pytest.raises(UserError, match="no Ray cluster can be joined"):
            joining.join(address, {}, {})
    assert time.monotonic() - began_s < 2 * joining.KNOCK_S


def test_workers_get_settings_but_no_secrets_and_nothing_that_the_job_has_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TQDM_DISABLE", "BLM_STORE", "BLM_SCRATCH", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, name.lower())
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    said = joining.worker_environment({"TQDM_DISABLE": "1"})
    assert said["TQDM_DISABLE"] == "tqdm_disable"
    assert said["BLM_STORE"] == "blm_store"
    assert said["AWS_REGION"] == "aws_region"
    assert not {"BLM_SCRATCH", "AWS_SECRET_ACCESS_KEY"} & said.keys()
    job = {"runtime_env": {"env_vars": {"TQDM_DISABLE": "0"}}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    assert joining.worker_environment({"TQDM_DISABLE": "1"}) == {
        name: value for name, value in said.items() if name != "TQDM_DISABLE"
    }
