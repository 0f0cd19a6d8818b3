"""Work on several nodes that share no files: everything goes through the store."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_ingest import bad_corpus
from small_nodes import NODES, disks, on_nodes
from small_stages import folder_hash
from test_ingest_flow import config, run

pytestmark = [pytest.mark.ray]

OPTIONS = [
    "world.cells=[panda/PushCube]",
    "collect.episodes_per_cell=12",
    "collect.seeds_per_item=4",
    "corpora.scenes=24",
    "corpora.test_scenes=8",
    "corpora.scenes_per_file=8",
    "corpora.language_copies=1",
    "stage1.vision_steps=3",
    "stage1.vision_batch=8",
    "stage1.steps=6",
    "stage1.batch=8",
    "stage1.eval_rows=12",
    "stage1.checkpoint_every_s=0",
    "intents.gate=warn",
    "intents.episodes_per_shard=4",
    "stage2.steps=60",
    "stage2.batch=8",
    "stage2.checkpoint_every_s=0",
    "stage2.validate_every=60",
    "stage2.rollouts_every=30",
    "stage2.rollout_episodes=1",
    "baseline.steps=3",
    "baseline.batch=4",
    "evaluate.episodes_per_cell=2",
    "evaluate.random_episodes_per_cell=1",
    "evaluate.max_steps=16",
    "evaluate.videos_per_cell=1",
    "evaluate.video_px=64",
    "evaluate.digital.questions=8",
    "evaluate.digital.max_new_tokens=6",
]


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """Where the nodes' disks and the store are, a corpus from outside, and what came of work on it."""
    root = tmp_path_factory.mktemp("data")
    corpus = bad_corpus(root / "foreign/corpus")
    folder = root / "nodes"
    made, _ = on_nodes(folder, f"file://{folder}/store", "data", str(corpus))
    return folder, corpus, made


def test_workers_find_their_files_and_the_driver_what_they_wrote(worked: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, _, made = worked
    used = made["copied"]["disks"]
    assert all(len(names) > 1 for names in used.values()), "one node did everything"
    assert all(str(disks(folder)[0]) not in names for names in used.values()), "the head worked"
    expected = {f"{n}.txt": f"word8 WORD{n}  WORD{7 - n} " for n in range(8)}
    texts = made["copied"]["texts"]
    for kind in ("light", "lasting"):
        assert {name: text for name, text in texts.items() if name.startswith(kind)} == {
            f"{kind}/{name}": text for name, text in expected.items()
        }
    stored = folder / "store/run/copy-00000000"
    assert {path.name: path.read_text() for path in (stored / "light").iterdir()} == expected


def test_a_corpus_is_ingested_as_on_one_machine(worked: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, corpus, made = worked
    expected = run(config(corpus), tmp_path)
    assert made["ingested"]["report"] == json.loads(json.dumps(expected))
    assert made["ingested"]["hash"] == folder_hash(tmp_path)
    stored = {path.name for path in (folder / "store/run/corpora-00000000").rglob("*") if path.is_file()}
    assert not {name for name in stored if name.endswith((".npz", ".npy"))}, "what was dropped is still in the store"


@pytest.mark.sim
@pytest.mark.long
@pytest.mark.parametrize("world", [2, 4])
def test_every_stage_runs_over_nodes_and_goes_on_with_empty_disks(
    request: pytest.FixtureRequest, tmp_path: Path, world: int
) -> None:
    """Two workers train with a folder as the store, four with a real S3 server."""
    folder = tmp_path / "nodes"
    uri = f"file://{folder}/store" if world == 2 else request.getfixturevalue("s3_store")
    options = [*OPTIONS, f"resources.train_workers={world}", f"resources.actors={NODES}"]
    first, _ = on_nodes(folder, uri, "pipeline", *options, "intents")
    worked = disks(folder)[1:]
    for wanted in ("collect-*/episodes", "render-*/lerobot", "stage1-*/encoded", "stage1-*/model"):
        assert any(list(disk.glob(f"*/tiny/{wanted}")) for disk in worked), f"no node was brought {wanted}"
    for disk in disks(folder):
        shutil.rmtree(disk)
    second, said = on_nodes(folder, uri, "pipeline", *options, "report")
    assert first.items() <= second.items()
    assert said.count(", skipped") == len(first), said[-3000:]
    (home,) = [path for path in disks(folder)[0].glob("*") if (path / "tiny").is_dir()]
    (evaluated,) = (home / "tiny").glob("evaluate-*")
    assert len((evaluated / "episodes.jsonl").read_text().splitlines()) == 2 + 2 + 1
    assert list((evaluated / "videos").glob("*.mp4"))
    assert len(list((evaluated / "rollouts").rglob("*.parquet"))) == 2
    (trained,) = (home / "tiny").glob("stage2-*")
    assert not (trained / "windows").exists()
    assert {json.loads(line)["step"] for line in (trained / "rollouts.jsonl").read_text().splitlines()} == {30, 60}
    assert (trained / "model/blm.json").is_file()
    for disk in disks(folder):
        shutil.rmtree(disk)
    third, said = on_nodes(folder, uri, "pipeline", *options, "report")
    assert third == second
    assert not list(disks(folder)[0].rglob("*.safetensors")), "a finished run is skipped without bringing it"
