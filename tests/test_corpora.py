"""Stage `corpora`: conversations that fit their pictures, test scenes apart, the same files however they are made."""

import hashlib
import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blm.actors.composer import OBJECT_BOX_M, TOOL_BOX_M, ComposeConfig, compose
from blm.actors.renderer import Renderer, paint_object
from blm.actors.sim.env import CellEnv
from blm.actors.sim.episode import Episode, write_episodes
from blm.actors.sim.world import WorldConfig, parse_cell, seed_range
from blm.model.errors import UserError
from blm.model.prompts import IMAGE_PLACEHOLDER, loc_value_m, policy_messages
from blm.pipelines.corpora import CorporaConfig, _scene_items, corpora
from blm.pipelines.datasets.chat import ChatRow, iterate_chat
from blm.pipelines.datasets.parquet import read_table
from blm.pipelines.datasets.questions import LOCATIONS
from blm.pipelines.datasets.scenes import SceneWorker
from blm.pipelines.tracking import Tracker
from blm.pipelines.workspace import ResourceConfig, StageContext

pytestmark = pytest.mark.sim

WORLD = WorldConfig(cells=("panda/PushCube", "panda/PickCube"), cameras=("front", "side"), image_px=56)
CONFIG = CorporaConfig(scenes=60, test_scenes=20, scenes_per_file=16, recolor_share=0.3)


def record(cell_name: str, seed: int, n_steps: int = 12) -> Episode:
    """A real episode of an arm that sinks."""
    cell = parse_cell(cell_name)
    env = CellEnv(cell)
    env.reset(seed)
    states, proprio, positions, actions = [env.state()], [env.proprio()], [env.object_positions()], []
    for _ in range(n_steps):
        action = env.proprio() + np.array([0, 0.03, 0, 0, 0, 0, 0, 0], dtype=np.float32)
        env.step(action)
        actions.append(action)
        states.append(env.state())
        proprio.append(env.proprio())
        positions.append(env.object_positions())
    return Episode(
        robot=cell.robot, task=cell.task, seed=seed, geometry="lite", instruction=cell.task_data.instructions[0],
        control_hz=20, states=np.stack(states), proprio=np.stack(proprio), actions=np.stack(actions),
        object_positions=np.stack(positions), success=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def collected(tmp_path_factory) -> Path:
    """Demonstrations of both cells; seeds 9 and 19 are lent to the test split, the others to training."""
    folder = tmp_path_factory.mktemp("collect")
    for cell in WORLD.cells:
        episodes = [record(cell, seed) for seed in (3, 9, 14, 19)]
        write_episodes(folder / f"episodes/{parse_cell(cell).slug}/seeds-000000-000020.parquet", episodes)
    return folder


def make_context(out: Path, inputs: dict[str, Path]) -> StageContext:
    out.mkdir(parents=True, exist_ok=True)
    resources = ResourceConfig(actors=2)
    return StageContext(out=out, inputs=inputs, world=WORLD, seed=0, tracker=Tracker(), resources=resources)


@pytest.fixture(scope="module")
def made(tmp_path_factory, collected, ray_cluster) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("corpora")
    return out, corpora(CONFIG, make_context(out, {"collect": collected}))


def rows_of(folder: Path, source: str) -> list[ChatRow]:
    return [row for row in iterate_chat(folder) if row.source == source]


def folder_hash(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(f.relative_to(folder)).encode() + f.read_bytes() for f in files)).hexdigest()


@pytest.mark.ray
def test_stage_leaves_two_folders_of_conversations_and_counts_them(made):
    out, summary = made
    assert sorted(path.name for path in out.iterdir()) == ["test", "train"]
    train, test = list(iterate_chat(out / "train")), list(iterate_chat(out / "test"))
    assert summary["train"]["rows"] == len(train)
    assert summary["test"]["rows"] == len(test)
    assert summary["train"]["rows_by_source"]["simulator"] == summary["scenes_kept"]["train"] <= CONFIG.scenes
    assert summary["scenes_kept"]["test"] == CONFIG.test_scenes
    assert summary["train"]["questions_by_category"]["object_position"] >= 50
    assert len({row.id for row in train + test}) == len(train) + len(test)
    assert all(0 < share <= 1 for share in summary["train"]["majority_share"].values())
    json.dumps(summary)


@pytest.mark.ray
def test_training_conversations_ask_for_all_places_and_answer_truly(made):
    for row in rows_of(made[0] / "train", "simulator"):
        categories = row.meta["categories"]
        assert set(LOCATIONS) <= set(categories)
        assert len(categories) <= CONFIG.turns
        assert row.messages[0]["text"].startswith(IMAGE_PLACEHOLDER * 2 + "\n")
        assert [Image.open(BytesIO(image)).size for image in row.images] == [(56, 56)] * 2
        truth = dict(zip(("gripper", "object", "goal"), np.reshape(row.meta["object_positions"], (3, 3)), strict=True))
        for category, message in zip(categories, row.messages[1::2], strict=True):
            if category in LOCATIONS:
                words = message["text"].split()
                found = [loc_value_m(axis, word) for axis, word in enumerate(words)]
                np.testing.assert_allclose(found, truth[category.removesuffix("_position")], atol=0.0052)


@pytest.mark.ray
def test_the_policy_prompt_is_trained_as_it_will_be_asked(made):
    prompts = {
        policy_messages(2, text)[0]["text"] for cell in WORLD.parsed_cells() for text in cell.task_data.instructions
    }
    firsts = [row.messages[0]["text"] for row in rows_of(made[0] / "train", "simulator")]
    assert sum(text in prompts for text in firsts) > 5
    assert all(text in prompts for text in firsts if "Your task is" in text)


@pytest.mark.ray
def test_test_scenes_and_training_scenes_share_neither_seeds_nor_pictures_nor_held_out_words(made):
    train, test = rows_of(made[0] / "train", "simulator"), rows_of(made[0] / "test", "simulator")
    seeds = [{(row.meta["task"], row.meta["seed"]) for row in rows} for rows in (train, test)]
    assert not seeds[0] & seeds[1]
    assert any(row.meta["origin"] == "episode" and row.meta["seed"] in (9, 19) for row in test)
    assert not {row.images for row in train} & {row.images for row in test}
    words = {m["text"].removeprefix(IMAGE_PLACEHOLDER * 2 + "\n") for row in train for m in row.messages[::2]}
    held_out = [row for row in test if row.meta["phrasing"] == "held_out"]
    assert 0.3 < len(held_out) / len(test) < 0.7
    assert not any(row.messages[0]["text"].removeprefix(IMAGE_PLACEHOLDER * 2 + "\n") in words for row in held_out)
    assert all(len(row.messages) == 2 and row.category != "mixed" for row in test)


@pytest.mark.ray
def test_a_killed_stage_goes_on_and_ends_with_the_same_files(made, collected, tmp_path, capsys):
    # What a kill leaves behind: some parts, here made by one worker without Ray, and conversations half written.
    context = make_context(tmp_path, {"collect": collected})
    worker = SceneWorker(CONFIG, WORLD, seed=0)
    items = _scene_items(CONFIG, context, tmp_path / "parts")
    for item in items[1:]:
        worker(item)
    (tmp_path / "train").mkdir()
    (tmp_path / "train/simulator-panda-Other-0000.parquet").write_bytes(b"stale")
    summary = corpora(CONFIG, context)
    assert f"{len(items) - 1} of {len(items)} parts were rendered before" in capsys.readouterr().out
    assert summary == made[1]
    assert folder_hash(tmp_path) == folder_hash(made[0])


def test_scenes_are_the_same_in_any_order_and_company(tmp_path):
    context = make_context(tmp_path, {})
    items = _scene_items(CONFIG, context, tmp_path / "parts")
    pick = next(item for item in items if item["cell"] == "panda/PickCube")
    worker = SceneWorker(CONFIG, WORLD, seed=0)
    worker(pick)
    alone = read_table(Path(pick["part"])).to_pylist()[5:8]
    worker({**pick, "first": 5, "count": 3})
    assert read_table(Path(pick["part"])).to_pylist() == alone


def test_composed_scenes_vary_and_stay_on_the_table():
    env = Renderer(WORLD).env(parse_cell("panda/PickCube"))
    config = ComposeConfig(episode_share=0.0, move_share=1.0)
    seeds = seed_range("corpora_train")
    positions = []
    for i in range(60):
        rng = np.random.default_rng(i)
        assert compose(env, seed=seeds[i], rng=rng, episodes=[], config=config).origin == "posture"
        positions.append(env.object_positions().reshape(3, 3))
    tool, thing, _ = np.moveaxis(positions, 1, 0)
    low, high = np.transpose(TOOL_BOX_M)
    inside = ((tool >= low - 0.05) & (tool <= high + 0.05)).all(axis=1)
    assert inside.mean() > 0.9
    assert tool.std(axis=0).min() > 0.04
    held = np.linalg.norm(tool - thing, axis=1) < 0.005
    assert 0.03 < held.mean() < 0.3
    assert (thing[~held, 0] < OBJECT_BOX_M[0][1] + 0.01).all()


def test_painting_changes_the_object_and_can_be_undone():
    env = Renderer(WORLD).env(parse_cell("panda/PushCube"))
    env.reset(1)
    before = env.render()["front"]
    own = paint_object(env, (0.85, 0.6, 0.02))
    painted = env.render()["front"]
    paint_object(env, own)
    np.testing.assert_array_equal(env.render()["front"], before)
    changed = (painted != before).any(axis=-1)
    assert 4 <= changed.sum() <= 60  # a 4 cm cube, seen 56 pixels wide
    red, _, blue = painted[changed].mean(axis=0)
    assert red > 2 * blue


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"scenes": 0}, "corpora.scenes is 0"),
        ({"turns": 2}, "corpora.turns is 2; give 3 or more"),
        ({"episode_share": 1.5}, "corpora.episode_share is 1.5"),
        ({"image_format": "bmp"}, "corpora.image_format is 'bmp'"),
    ],
)
def test_impossible_options_are_refused(options, problem):
    with pytest.raises(UserError, match=problem):
        CorporaConfig(**options)


def test_more_scenes_than_seeds_and_damaged_demonstrations_are_refused(tmp_path):
    with pytest.raises(UserError, match="asks for 2000000 train scenes; there are 1000000 seeds"):
        corpora(CorporaConfig(scenes=2_000_000), make_context(tmp_path / "out", {}))
    damaged = tmp_path / "collect/episodes/panda-PushCube/seeds-000000-000010.parquet"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"PAR1 but not much more")
    with pytest.raises(UserError, match=r"seeds-000000-000010\.parquet is not a readable Parquet file"):
        corpora(CONFIG, make_context(tmp_path / "out", {"collect": tmp_path / "collect"}))
