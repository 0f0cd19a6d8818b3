"""Configurations of the server: what may be said, what a file of `serve deploy` says, what a running server leaves."""

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_policy import write_small_policy

from blm.model.errors import UserError
from blm.pipelines import serve as command
from blm.pipelines import serve_running
from blm.pipelines.schema import build, parse_yaml
from blm.pipelines.serve_config_file import IMPORT_PATH, config_file, plain
from blm.pipelines.serve_running import RunningServer
from blm.pipelines.serve_start import logical_cpus
from blm.serve import front
from blm.serve.checkpoint import check_folder
from blm.serve.config import ActionsConfig, ChatConfig, ReplicasConfig, ServeConfig
from blm.serve.guard.config import GuardConfig
from blm.serve.sessions.session import SessionConfig

MANIFEST = Path(__file__).parent.parent / "cluster" / "kubernetes" / "serve" / "rayservice.yaml"
UNUSUAL = ServeConfig(
    port=8123,
    device="cpu",
    chat=ChatConfig(max_images=2),
    actions=ActionsConfig(sharing="copies"),
    session=SessionConfig(cameras={"agentview": "front"}),
    guard=GuardConfig(key_file=Path("/keys/keys.txt"), key_hashes={"lab": "0" * 64}, allowed_origins=("https://a.b",)),
    model=ReplicasConfig(max=3, latency_ms=80.0),
    overflow=True,
)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"chat": {"enabled": False}, "actions": {"enabled": False}}, "nothing left to serve"),
        ({"chat": {"enabled": False}, "actions": {"apart": True}}, "needs both"),
        ({"model": {"min": 2, "max": 1}}, "model: min=2 and max=1"),
        ({"control": {"ongoing": 0.0}}, "ongoing must be above 0"),
        ({"front": "nginx"}, "auto, haproxy, ray"),
        ({"drain_s": -1.0}, "drain_s is -1"),
        ({"port": 0}, "port is 0"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_by_name(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        build(ServeConfig, options, where="serve.yaml")


def test_what_differs_from_the_defaults_is_all_that_is_written_and_reads_back() -> None:
    written = yaml.safe_load(yaml.safe_dump(plain(UNUSUAL)))
    assert written["model"] == {"max": 3, "latency_ms": 80.0}
    assert "host" not in written
    assert build(ServeConfig, written, where="test") == UNUSUAL
    assert plain(ServeConfig()) == {}


def test_control_replicas_are_there_only_where_they_have_work() -> None:
    assert not ServeConfig().has_control
    assert ServeConfig(overflow=True).has_control
    assert ServeConfig(actions=ActionsConfig(apart=True)).has_control
    assert not ServeConfig(overflow=True, chat=ChatConfig(enabled=False)).has_control


def test_a_local_ray_has_room_for_every_replica_and_its_successor() -> None:
    one = ServeConfig()
    assert logical_cpus(one) >= 2 * one.model.num_cpus
    many = replace(UNUSUAL, model=ReplicasConfig(max=3, num_cpus=2.0), control=ReplicasConfig(max=2))
    assert logical_cpus(many) >= 2 * (3 * 2 + 2)


# ------------------------------------------------------------------------------------------------- the file to deploy


def test_the_written_file_is_one_that_ray_serve_takes(tmp_path: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    text = config_file(tmp_path / "model", UNUSUAL, "cpu", name="blm.yaml")
    schema = ServeDeploySchema.model_validate(yaml.safe_load(text))
    assert schema.http_options.port == 8123
    (application,) = schema.applications
    assert application.import_path == IMPORT_PATH
    assert application.args["model"] == str(tmp_path / "model")
    assert build(ServeConfig, application.args["config"], where="test") == UNUSUAL


def test_the_written_file_builds_the_application(tmp_path: Path, tiny_mllm: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    from blm.pipelines import serve_config_file

    model = write_small_policy(tmp_path / "model", tiny_mllm)
    config = replace(
        ServeConfig(overflow=True, model=ReplicasConfig(min=0, max=3, ongoing=5.0)),
        playground=replace(ServeConfig().playground, enabled=False),
    )
    text = config_file(model, config, "cpu", name="blm.yaml")
    (described,) = ServeDeploySchema.model_validate(yaml.safe_load(text)).applications
    module, _, function = described.import_path.partition(":")
    assert module == serve_config_file.__name__
    application = getattr(serve_config_file, function)(described.args)
    ingress = application._bound_deployment
    assert ingress.name == "model"
    scaling = ingress._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (0, 3, 5.0)
    assert scaling.policy.policy_function.endswith("replicas_wanted")
    assert ingress._deployment_config.max_surge_percent == 100
    assert ingress.init_args[-1]._bound_deployment.name == "control"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "give model"),
        ({"model": "/m", "configuration": {}}, "unknown 'configuration'"),
        ({"model": "/m", "config": {}}, "give config.device"),
        ({"model": "/nowhere", "config": {"device": "cpu"}}, "does not exist"),
        ({"model": "/m", "config": {"devise": "cpu"}}, "did you mean 'device'"),
    ],
)
def test_arguments_that_say_nothing_sensible_are_refused(arguments: dict[str, Any], says: str) -> None:
    from blm.pipelines.serve_config_file import application

    with pytest.raises(UserError, match=says):
        application(arguments)


def test_write_config_starts_nothing_and_writes_the_file(
    tmp_path: Path, tiny_mllm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, file = write_small_policy(tmp_path / "model", tiny_mllm), tmp_path / "blm.yaml"
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    words = ["--model", str(model), "--port", "8124", "--write-config", str(file)]
    assert command.serve(parser.parse_args(words)) == 0
    assert "serve deploy" in capsys.readouterr().out
    assert yaml.safe_load(file.read_text())["http_options"] == {"host": "127.0.0.1", "port": 8124}


def test_the_kuberay_manifest_says_what_the_code_says() -> None:
    service = next(yaml.safe_load_all(MANIFEST.read_text()))
    deployed = parse_yaml(service["spec"]["serveConfigV2"], where="manifest")
    (application,) = deployed["applications"]
    assert application["import_path"] == IMPORT_PATH
    config: ServeConfig = build(ServeConfig, application["args"]["config"], where="manifest")
    assert (config.host, config.port) == (deployed["http_options"]["host"], deployed["http_options"]["port"])
    assert config.guard.key_file is not None
    cluster = service["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        said = {one["name"]: one["value"] for one in container["env"]}
        assert said.items() >= front.everywhere("haproxy", config).items()


# -------------------------------------------------------------------------------------------------------- the front


def test_a_cluster_that_runs_has_made_its_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(front.CHOICE, raising=False)
    assert front.choose(ServeConfig(), joins=True) == "ray"
    with pytest.raises(UserError, match="nodes must be started with"):
        front.choose(ServeConfig(front="haproxy"), joins=True)
    monkeypatch.setenv(front.CHOICE, "1")
    assert front.choose(ServeConfig(), joins=True) == "haproxy"


def test_without_the_program_auto_takes_rays_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(front.PROGRAM, str(tmp_path / "no-haproxy"))
    assert front.choose(ServeConfig(), joins=False) == "ray"
    with pytest.raises(UserError, match="is no program"):
        front.choose(ServeConfig(front="haproxy"), joins=False)


def test_haproxys_sockets_lie_where_nobody_else_may_look_and_fit_into_a_path() -> None:
    said = front.environment("haproxy", ServeConfig())
    sockets = Path(said["RAY_SERVE_HAPROXY_SOCKET_PATH"])
    assert sockets.parent.stat().st_mode & 0o077 == 0
    node = "0" * 56  # Ray puts the node's number between folder and file, HAProxy its process's behind
    assert len(str(sockets.parent / node / sockets.name)) + len(".1234567.tmp") < 108
    ports = [said[name] for name in said if name.endswith("_PORT")]
    assert len(set(ports)) == len(ports) == 3
    front.discard(said)
    assert not sockets.parent.exists()


def test_haproxy_leaves_an_episode_the_whole_time_that_is_its() -> None:
    config = ServeConfig(drain_s=600.0)
    said = front.everywhere("haproxy", config)
    assert float(said["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"]) > config.drain_s
    assert float(said["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]) > config.drain_s


# ------------------------------------------------------------------------------------------------- servers that run


def test_a_server_is_found_by_its_port_while_it_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    server = RunningServer(
        pid=os.getpid(),
        address="127.0.0.1:6379",
        environment={"RAY_AUTH_MODE": "disabled"},
        model="/models/blm",
        device="cpu",
        config=UNUSUAL,
    )
    with serve_running.announced(server):
        assert serve_running.read(8123) == server
        with pytest.raises(UserError, match="there is one at port 8123"):
            serve_running.read(8000)
    with pytest.raises(UserError, match="you run no server at port 8123"):
        serve_running.read(8123)


def test_word_of_a_server_that_died_is_not_believed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    server = RunningServer(
        pid=2**22 + 1, address="x:1", environment={}, model=str(tmp_path), device="cpu", config=UNUSUAL
    )
    serve_running.write(server)
    with pytest.raises(UserError, match="you run no server at port 8123"):
        serve_running.read(8123)


def test_a_policy_without_conversation_needs_no_model_that_talks(tmp_path: Path, tiny_mllm: Path) -> None:
    model = write_small_policy(tmp_path / "model", tiny_mllm)
    (model / "config.json").unlink()
    check_folder(model, with_policy=True, with_chat=False)
    with pytest.raises(UserError, match=r"config\.json is missing"):
        check_folder(model, with_policy=True)
