"""What tests share: Ray with two logical CPUs, an untrained tiny multimodal model, and a stage's context."""

import functools
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helpers beside the tests, which importlib mode leaves out of the path

from live_server import live_model, live_server  # noqa: F401 - fixtures

from blm.actors.sim.world import WorldConfig
from blm.pipelines.tracking import Tracker
from blm.pipelines.workspace import ResourceConfig, StageContext


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make test PYTEST_ARGS=--long` runs everything."""
    parser.addoption("--long", action="store_true", help="also run what takes minutes each (marker `long`)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow files first, then those that ask the running server, so that the many short ones are left for whichever of
    two processes of tests is done before the other."""
    if not config.getoption("--long"):
        for item in items:
            if "long" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes minutes; give --long"))
    slow = {item.path for item in items if "slow" in item.keywords}
    items.sort(key=lambda item: 1 if asks_the_server(item.path) else 0 if item.path in slow else 2)


@pytest.hookimpl(optionalhook=True)  # one may run tests without pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """`make test` has two processes of tests, which take a file at a time; those that ask the running server are one,
    since it is started once a process."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "server" if asks_the_server(config.rootpath / file) else file

    return ByFile(config, log)


@functools.cache
def asks_the_server(path: Path) -> bool:
    """Whether tests of a file ask the server of `live_server`."""
    return "live_server" in path.read_text()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Ray on this machine with two logical CPUs, started once for all tests that need it."""
    from blm.cluster.ray_runtime import connect, disconnect

    connect(num_cpus=2, object_store_gb=0.5)
    yield
    disconnect()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store with nothing in it: to make one takes longer than most stages of a small run."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    assert MlflowClient(tracking_uri=f"sqlite:///{path}").get_experiment_by_name("small") is None
    return path


@pytest.fixture(scope="session")
def s3_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server with a bucket `runs`, started once for all tests that need it."""
    from small_store import make_bucket, s3_server

    with s3_server(tmp_path_factory.mktemp("s3") / "log") as address:
        make_bucket(address, "runs")
        yield address


@pytest.fixture
def s3_store(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty store on the S3 server, which this process and those it starts are told of."""
    from small_store import point_at

    for name, value in point_at(s3_address).items():
        monkeypatch.setenv(name, value)
    return f"s3://runs/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def tiny_mllm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an untrained tiny multimodal model with a tokenizer trained on a handful of sentences."""
    from blm.model.backbone import build_tiny, make_processor, save_backbone
    from blm.model.options import TinyBackboneConfig
    from blm.model.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("tiny_mllm")
    config = TinyBackboneConfig(vision_depth=2, vision_width=64, depth=3, width=96, vocab_size=512)
    texts = ["Where is the cube?", "Push the cube to the goal.", "Your task is to pick up the red cube.", "yes", "no"]
    tokenizer = train_tokenizer(texts * 20, config.vocab_size)
    save_backbone(folder, build_tiny(config, tokenizer, 0), make_processor(tokenizer))
    return folder


@pytest.fixture(scope="session")
def learned_mllm(tiny_mllm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_mllm` after a few steps: it answers every question of `small_corpus`, by looking."""
    from small_corpus import write_learned_model

    return write_learned_model(tmp_path_factory.mktemp("learned_mllm") / "model", tiny_mllm)


@pytest.fixture
def stage_context(tmp_path: Path) -> Callable[..., StageContext]:
    """`stage_context("render", inputs={...})`: a context with a fresh folder and a tracker that keeps nothing."""

    def make(
        stage: str,
        *,
        inputs: Mapping[str, Path] | None = None,
        world: WorldConfig | None = None,
        resources: ResourceConfig | None = None,
        seed: int = 0,
    ) -> StageContext:
        out = tmp_path / f"{stage}-00000000"
        out.mkdir(parents=True, exist_ok=True)
        return StageContext(
            out=out,
            inputs=inputs or {},
            world=world or WorldConfig(),
            seed=seed,
            tracker=Tracker(),
            resources=resources or ResourceConfig(),
        )

    return make
