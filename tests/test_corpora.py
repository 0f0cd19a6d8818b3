"""Stage `corpora`: conversations that fit their pictures, test scenes apart, the same files however they are made."""

import json
from contextlib import redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_episodes import demonstrated
from small_stages import folder_hash, work_here

from blm.actors.composer import OBJECT_BOX_M, TOOL_BOX_M, ComposeConfig, compose
from blm.actors.renderer import Renderer, paint_object
from blm.actors.sim.episode import write_episodes
from blm.actors.sim.world import WorldConfig, parse_cell, seed_range
from blm.model.errors import UserError
from blm.model.prompts import IMAGE_PLACEHOLDER, loc_value_m, policy_messages
from blm.pipelines.corpora import CorporaConfig, corpora
from blm.pipelines.corpora_episodes import clip_items
from blm.pipelines.corpora_scenes import scene_items
from blm.pipelines.datasets.chat import ChatRow, iterate_chat
from blm.pipelines.datasets.episode_parts import EpisodeWorker
from blm.pipelines.datasets.episode_views import SHAREROBOT
from blm.pipelines.datasets.parquet import read_table
from blm.pipelines.datasets.questions import LOCATIONS
from blm.pipelines.datasets.scenes import SceneWorker
from blm.pipelines.datasets.visible import box_px
from blm.pipelines.tracking import Tracker
from blm.pipelines.workspace import ResourceConfig, StageContext

pytestmark = pytest.mark.sim

WORLD = WorldConfig(cells=("panda/PushCube", "panda/PickCube"), cameras=("front", "side"), image_px=56)
CONFIG = CorporaConfig(scenes=60, test_scenes=20, scenes_per_file=16, recolor_share=0.3, episode_questions=12)


SEEDS = (0, 1, 2, 9, 19)


@pytest.fixture(scope="module")
def collected(tmp_path_factory) -> Path:
    """Real demonstrations of both cells, in two files each; seeds 9 and 19 are for testing."""
    folder = tmp_path_factory.mktemp("collect")
    for cell in WORLD.cells:
        for seeds in (SEEDS[:2], SEEDS[2:]):
            path = folder / f"episodes/{parse_cell(cell).slug}/seeds-{seeds[0]:07d}-{seeds[-1]:07d}.parquet"
            write_episodes(path, [demonstrated(cell, seed) for seed in seeds])
    return folder


def make_context(out: Path, inputs: dict[str, Path], actors: int = 2) -> StageContext:
    out.mkdir(parents=True, exist_ok=True)
    resources = ResourceConfig(actors=actors)
    return StageContext(out=out, inputs=inputs, world=WORLD, seed=0, tracker=Tracker(), resources=resources)


@pytest.fixture(scope="module")
def made(tmp_path_factory, collected, ray_cluster) -> tuple[Path, dict, str]:
    """The corpus with questions about episodes, its summary and what was printed."""
    out = tmp_path_factory.mktemp("corpora")
    with redirect_stdout(StringIO()) as printed:
        summary = corpora(CONFIG, make_context(out, {"collect": collected}))
    return out, summary, printed.getvalue()


def rows_of(folder: Path, source: str) -> list[ChatRow]:
    return [row for row in iterate_chat(folder) if row.source == source]


@pytest.mark.ray
def test_stage_leaves_two_folders_of_conversations_and_counts_them(made):
    out, summary, _ = made
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
def test_a_killed_stage_goes_on_and_ends_with_the_same_files_whatever_its_workers(
    made, collected, tmp_path, capsys, monkeypatch
):
    # What a kill leaves behind: some parts, and conversations half written. Here all is made without Ray.
    for module in ("corpora", "corpora_scenes", "corpora_episodes"):
        work_here(monkeypatch, f"blm.pipelines.{module}")
    context = make_context(tmp_path, {"collect": collected}, actors=1)
    scenes, clips = scene_items(CONFIG, context, tmp_path / "parts"), clip_items(context, sources_of(collected))
    scene_worker, episode_worker = SceneWorker(CONFIG, WORLD, seed=0), EpisodeWorker(CONFIG, WORLD, seed=0)
    for item in scenes[1:]:
        scene_worker(item)
    for item in clips[::-2]:
        episode_worker(item)
    (tmp_path / "train").mkdir()
    (tmp_path / "train/simulator-panda-Other-0000.parquet").write_bytes(b"stale")
    assert corpora(CONFIG, context) == made[1]
    assert f"{len(scenes) - 1} of {len(scenes)} parts were rendered before" in capsys.readouterr().out
    assert folder_hash(tmp_path) == folder_hash(made[0])


def sources_of(collected: Path) -> dict[str, list[Path]]:
    return {cell: sorted((collected / "episodes" / parse_cell(cell).slug).glob("*")) for cell in WORLD.cells}


def test_scenes_are_the_same_in_any_order_and_company(tmp_path):
    context = make_context(tmp_path, {})
    items = scene_items(CONFIG, context, tmp_path / "parts")
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


# ----------------------------------------------------------------------------------------------------------- episodes


@pytest.mark.ray
def test_episodes_are_asked_about_in_every_category_and_counted(made):
    out, summary, printed = made
    train = summary["episodes"]["train"]
    assert set(SHAREROBOT) <= set(train)
    assert {"spatial_relation", "counting", "localisation", "localisation_point", "localisation_box"} <= set(train)
    assert "robot_identification" not in train, "there is but one robot"
    rows = rows_of(out / "train", "episodes")
    assert (
        sum(counts["rows"] for counts in train.values()) == len(rows) == summary["train"]["rows_by_source"]["episodes"]
    )
    assert {row.category for row in rows} == set(train)
    for category, counts in train.items():
        assert f"{category:<36}{counts['rows']:>7}" in printed
        assert counts["choice"] == sum(counts["letters"].values())
    for words in ("success", "discriminative_affordance"):
        assert train[f"{words}_positive"]["rows"] == train[f"{words}_negative"]["rows"] > 0
    assert train["success_negative"]["failures"] > 0
    json.dumps(summary)


@pytest.mark.ray
def test_no_arrangement_picture_or_question_is_in_both_splits_or_twice(made):
    train, test = (list(iterate_chat(made[0] / split)) for split in ("train", "test"))
    shown = [
        {(row.meta["task"], row.meta["seed"]) for row in rows if row.source != "language"} for rows in (train, test)
    ]
    assert not shown[0] & shown[1]
    assert {row.meta["seed"] for row in test if row.source == "episodes"} == {9, 19}
    of_train = [row.images for row in train if row.images]
    assert len(set(of_train)) == len(of_train)
    of_test = [row.images for row in test if row.source == "episodes"]
    assert len(set(of_test)) == len(of_test)
    assert not set(of_train) & {row.images for row in test}
    assert len({row.id for row in train + test}) == len(train) + len(test)


def test_episodes_cannot_be_asked_about_without_any(tmp_path):
    with pytest.raises(UserError, match=r"corpora\.episode_questions is 12, but there are no demonstrations"):
        corpora(CONFIG, make_context(tmp_path, {}))


def test_nobody_is_asked_for_the_color_of_what_the_arm_hides(tmp_path):
    source = tmp_path / "episodes.parquet"
    write_episodes(source, [demonstrated("panda/PullCube", 0)])
    config = CorporaConfig(recolor_share=1.0, episode_share=1.0)
    item = {"split": "train", "cell": "panda/PullCube", "cell_index": 0, "first": 0, "count": 30}
    world = WorldConfig(cells=("panda/PullCube",), cameras=("front", "side"), image_px=112)
    SceneWorker(config, world, seed=0)(item | {"sources": [str(source)], "part": str(tmp_path / "part.parquet")})
    colors = [row["color"] for row in read_table(tmp_path / "part.parquet", ("color",)).to_pylist()]
    assert 0 < colors.count(None) < len(colors), "hidden while it is pulled, seen before"


def test_a_box_is_put_round_what_differs():
    plain = np.full((20, 20, 3), 100, np.uint8)
    painted = plain.copy()
    painted[4:7, 2:9, 0] += 60
    assert box_px(plain, painted) == (2, 4, 9, 7)
    assert box_px(plain, plain + np.uint8(5)) is None, "less than a change of colour"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"scenes": 0}, "corpora.scenes is 0"),
        ({"turns": 2}, "corpora.turns is 2; give 3 or more"),
        ({"episode_share": 1.5}, "corpora.episode_share is 1.5"),
        ({"episode_questions": -1}, "corpora.episode_questions is -1"),
        ({"video_frames": 1}, "corpora.video_frames is 1; give 2 or more"),
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
