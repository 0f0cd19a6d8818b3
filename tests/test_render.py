"""Stage `render`: the right frames, exactly what was simulated, the same dataset however it is made."""

import os
import shutil
import signal
import threading
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_stages import folder_hash

from blm.actors.sim.env import CellEnv
from blm.actors.sim.episode import Episode, write_episodes
from blm.actors.sim.look import LookConfig
from blm.actors.sim.world import WorldConfig, parse_cell
from blm.model.errors import UserError
from blm.pipelines.datasets.lerobot import LeRobotDataset
from blm.pipelines.render import RenderConfig, render
from blm.pipelines.render_frames import RenderWorker, render_episode
from blm.pipelines.tracking import Tracker
from blm.pipelines.workspace import ResourceConfig, StageContext

pytestmark = pytest.mark.sim

CELLS = ("panda/PushCube", "panda/PickCube")
WORLD = WorldConfig(cells=CELLS, cameras=("front", "side"), image_px=56)


def record(cell_name: str, seed: int, n_steps: int, env: CellEnv | None = None) -> Episode:
    """A real episode of a waving arm."""
    cell = parse_cell(cell_name)
    env = env or CellEnv(cell)
    env.reset(seed)
    states, proprio, positions, actions = [env.state()], [env.proprio()], [env.object_positions()], []
    for step in range(n_steps):
        action = env.proprio() + 0.05 * np.sin(step + np.arange(8, dtype=np.float32))
        env.step(action)
        actions.append(action)
        states.append(env.state())
        proprio.append(env.proprio())
        positions.append(env.object_positions())
    return Episode(
        robot=cell.robot, task=cell.task, seed=seed, geometry="lite", instruction=cell.task_data.instructions[0],
        control_hz=20, states=np.stack(states), proprio=np.stack(proprio), actions=np.stack(actions),
        object_positions=np.stack(positions), success=True, metrics={"planner_version": 7},
    )  # fmt: skip


@pytest.fixture(scope="module")
def collected(tmp_path_factory) -> Path:
    """A folder as the collect stage leaves it: two files of PushCube, one of PickCube, seeds out of order."""
    folder = tmp_path_factory.mktemp("collect")
    env = CellEnv(parse_cell("panda/PushCube"))
    push = folder / "episodes/panda-PushCube"
    write_episodes(
        push / "seeds-000008-000010.parquet", [record("panda/PushCube", 9, 7, env), record("panda/PushCube", 8, 6, env)]
    )
    write_episodes(push / "seeds-000000-000002.parquet", [record("panda/PushCube", 1, 5, env)])
    write_episodes(folder / "episodes/panda-PickCube/seeds-000000-000002.parquet", [record("panda/PickCube", 0, 8)])
    (push / ".tmp-1234-seeds-000002-000004.parquet").write_bytes(b"left by a killed collect")
    return folder


def make_context(out: Path, collect: Path, *, world: WorldConfig = WORLD, actors: int = 2) -> StageContext:
    out.mkdir(parents=True, exist_ok=True)
    resources = ResourceConfig(actors=actors)
    return StageContext(
        out=out, inputs={"collect": collect}, world=world, seed=0, tracker=Tracker(), resources=resources
    )


@pytest.fixture(scope="module")
def rendered(tmp_path_factory, collected, ray_cluster) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("render")
    return out, render(RenderConfig(chunk=4), make_context(out, collected))


def parts_here(config: RenderConfig, out: Path, collect: Path, count: int | None = None) -> None:
    """The parts of the first `count` files (None: of all), made in this process, which has a simulator already."""
    worker = RenderWorker(config, WORLD)
    for source in sorted((collect / "episodes").glob("*/seeds*.parquet"))[:count]:
        part = out / "parts" / f"{source.parent.name}-{source.stem}.parquet"
        worker({"source": str(source), "part": str(part)})


def render_here(config: RenderConfig, out: Path, collect: Path) -> dict:
    """The whole stage, whose workers have done everything before."""
    parts_here(config, out, collect)
    return render(config, make_context(out, collect))


def test_frames_fall_on_the_stride_and_chunks_repeat_the_end():
    episode = record("panda/PushCube", seed=3, n_steps=7)
    env = CellEnv(parse_cell("panda/PushCube"), cameras=("front",), image_px=56)
    frames = render_episode(env, episode, RenderConfig(stride=2, chunk=4))
    assert frames.length == 4  # steps 0, 2, 4, 6; the final state, 7, is off the stride
    np.testing.assert_array_equal(frames.values["observation.state"], episode.proprio[[0, 2, 4, 6]])
    np.testing.assert_array_equal(frames.values["privileged.object_positions"], episode.object_positions[::2])
    np.testing.assert_array_equal(frames.values["action"], episode.actions[[1, 3, 5, 6]])
    np.testing.assert_array_equal(frames.values["action_chunk"][2], episode.actions[[4, 5, 6, 6]])
    np.testing.assert_array_equal(frames.values["action_chunk_is_pad"][2], [False, False, False, True])
    assert frames.values["next.success"].tolist() == [False, False, False, True]


def test_a_final_state_on_the_stride_is_a_frame_of_padding():
    episode = record("panda/PushCube", seed=3, n_steps=6)
    env = CellEnv(parse_cell("panda/PushCube"), cameras=("front",), image_px=56)
    frames = render_episode(env, episode, RenderConfig(stride=2, chunk=4))
    assert frames.length == 4
    np.testing.assert_array_equal(frames.values["action"][-1], episode.actions[-1])
    np.testing.assert_array_equal(frames.values["action_chunk"][-1], episode.actions[[5, 5, 5, 5]])
    assert frames.values["action_chunk_is_pad"][-1].all()


def test_png_frames_are_exactly_what_the_simulator_shows():
    episode = record("panda/PickCube", seed=5, n_steps=4)
    env = CellEnv(parse_cell("panda/PickCube"), cameras=("front", "side"), image_px=56)
    frames = render_episode(env, episode, RenderConfig(stride=4))
    env.set_state(episode.states[4])
    for camera, picture in env.render().items():
        stored = Image.open(BytesIO(frames.pictures[f"observation.images.{camera}"][1]))
        np.testing.assert_array_equal(np.asarray(stored), picture)
    lossy = render_episode(env, episode, RenderConfig(stride=4, image_format="jpeg"))
    stored = Image.open(BytesIO(lossy.pictures["observation.images.side"][1]))
    assert stored.format == "JPEG"
    assert np.abs(np.asarray(stored).astype(int) - picture).mean() < 3


def test_an_episode_of_another_simulator_is_refused():
    episode = record("panda/PushCube", seed=3, n_steps=2)
    narrow = Episode(
        **{name: getattr(episode, name) for name in Episode.__slots__} | {"states": episode.states[:, :-2]}
    )
    env = CellEnv(parse_cell("panda/PushCube"), cameras=("front",), image_px=56)
    with pytest.raises(UserError, match="seed 3 has simulator states of 55 numbers, this version has 57"):
        render_episode(env, narrow, RenderConfig())


@pytest.mark.ray
def test_stage_writes_one_ordered_dataset_a_robot(rendered):
    out, summary = rendered
    assert summary["cells"] == {"panda/PickCube": 1, "panda/PushCube": 3}
    assert summary["datasets"]["panda"]["frames"] == 5 + 3 + 4 + 4
    assert sorted(path.name for path in out.iterdir()) == ["examples", "lerobot"]
    dataset = LeRobotDataset(out / "lerobot/panda")
    assert (dataset.fps, dataset.cameras) == (10, ("front", "side"))
    order = [(e.extra["cell"], e.extra["seed"]) for e in dataset.episodes]
    assert order == [("panda/PickCube", 0), ("panda/PushCube", 1), ("panda/PushCube", 8), ("panda/PushCube", 9)]
    assert dataset.episodes[1].extra == {
        "cell": "panda/PushCube", "seed": 1, "geometry": "lite", "planner_version": 7, "variant": 0,
        "first_plan": True, "disturbed": False,
    }  # fmt: skip
    frames = dataset.read(dataset.episodes[0])
    assert dataset.pictures(frames, "side").shape == (5, 56, 56, 3)
    assert dataset.values(frames, "action_chunk").shape == (5, 4, 8)
    assert dataset.stats()["observation.images.front"]["count"].tolist() == [16]


@pytest.mark.ray
def test_each_cells_first_frame_is_kept_to_look_at(rendered):
    out, _ = rendered
    dataset = LeRobotDataset(out / "lerobot/panda")
    for cell in CELLS:
        first = next(episode for episode in dataset.episodes if episode.extra["cell"] == cell)
        for camera in WORLD.cameras:
            kept = np.asarray(Image.open(out / "examples" / parse_cell(cell).slug / f"{camera}.png"))
            assert np.array_equal(kept, dataset.pictures(dataset.read(first), camera)[0])


def test_a_killed_stage_goes_on_with_the_files_that_are_left(rendered, collected, tmp_path, capsys):
    # What a kill leaves behind: finished parts, and a part half written.
    parts_here(RenderConfig(chunk=4), tmp_path, collected, count=2)
    (tmp_path / "parts/.tmp-half").write_bytes(b"half a part")
    summary = render(RenderConfig(chunk=4), make_context(tmp_path, collected))
    assert "2 of 3 episode files were rendered before" in capsys.readouterr().out
    assert summary == rendered[1]
    assert folder_hash(tmp_path / "lerobot") == folder_hash(rendered[0] / "lerobot")


def test_missing_and_damaged_episodes_are_named(collected, tmp_path):
    with pytest.raises(UserError, match="holds no episodes; run the collect stage first"):
        render(RenderConfig(), make_context(tmp_path / "out", tmp_path))
    shutil.copytree(collected, tmp_path / "collect")
    damaged = tmp_path / "collect/episodes/panda-PushCube/seeds-000000-000002.parquet"
    damaged.write_bytes(damaged.read_bytes()[:500])
    with pytest.raises(UserError, match=r"seeds-000000-000002\.parquet is not a readable Parquet file"):
        render(RenderConfig(), make_context(tmp_path / "out", tmp_path / "collect"))


@pytest.mark.ray
def test_damage_that_only_a_worker_meets_is_named_too(collected, tmp_path, ray_cluster):
    shutil.copytree(collected, tmp_path / "collect")
    damaged = tmp_path / "collect/episodes/panda-PickCube/seeds-000000-000002.parquet"
    content = bytearray(damaged.read_bytes())
    content[50:1500] = b"\xff" * 1450  # the footer is whole, the pages are not
    damaged.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"cannot read episodes from .*seeds-000000-000002\.parquet"):
        render(RenderConfig(), make_context(tmp_path / "out", tmp_path / "collect"))


@pytest.mark.ray
def test_variants_are_the_same_demonstration_with_other_looks(rendered, collected, tmp_path):
    out, _ = rendered
    render(RenderConfig(chunk=4, variants=3), make_context(tmp_path / "two", collected))
    render_here(RenderConfig(chunk=4, variants=3), tmp_path / "one", collected)
    assert folder_hash(tmp_path / "one/lerobot") == folder_hash(tmp_path / "two/lerobot")
    plain, dataset = LeRobotDataset(out / "lerobot/panda"), LeRobotDataset(tmp_path / "one/lerobot/panda")
    assert [e.extra["variant"] for e in dataset.episodes] == [0, 1, 2] * 4
    for k, episode in enumerate(plain.episodes):
        frames = plain.read(episode)
        drawn = [dataset.read(variant) for variant in dataset.episodes[3 * k : 3 * k + 3]]
        for name in ("observation.state", "action_chunk", "next.success", "privileged.object_positions"):
            assert all(variant[name].equals(frames[name]) for variant in drawn)
        first, second, third = (dataset.encoded_pictures(variant, "side") for variant in drawn)
        assert first == plain.encoded_pictures(frames, "side")
        assert first != second != third != first
    all_drawn = RenderConfig(chunk=4, variants=1, plain_first=False, look=LookConfig(eye_jitter_m=0.1))
    render_here(all_drawn, tmp_path / "drawn", collected)
    other = LeRobotDataset(tmp_path / "drawn/lerobot/panda")
    pictures = other.encoded_pictures(other.read(other.episodes[0]), "side")
    assert pictures != plain.encoded_pictures(plain.read(plain.episodes[0]), "side")


@pytest.mark.ray
def test_videos_show_what_the_pictures_do(rendered, collected, tmp_path, capsys):
    out, summary = rendered
    config = RenderConfig(chunk=4, storage="video")
    first = render_here(config, tmp_path / "first", collected)
    assert {**first, "datasets": None} == {**summary, "datasets": None}
    parts_here(config, tmp_path / "again", collected, count=1)
    render(config, make_context(tmp_path / "again", collected, actors=1))
    assert "1 of 3 episode files were rendered before" in capsys.readouterr().out
    assert folder_hash(tmp_path / "first/lerobot") == folder_hash(tmp_path / "again/lerobot")
    images, videos = LeRobotDataset(out / "lerobot/panda"), LeRobotDataset(tmp_path / "first/lerobot/panda")
    assert videos.cameras == images.cameras
    assert "observation.images.front" not in pq.read_schema(next(videos.root.glob("data/*/*.parquet"))).names
    for ours, theirs in zip(images.episodes, videos.episodes, strict=True):
        frames, decoded = images.read(ours), videos.read(theirs)
        assert decoded["action"].equals(frames["action"])
        for camera in WORLD.cameras:
            difference = images.pictures(frames, camera).astype(int) - videos.pictures(decoded, camera)
            assert np.abs(difference).mean() < 4
    np.testing.assert_array_equal(
        images.stats()["observation.images.side"]["mean"], videos.stats()["observation.images.side"]["mean"]
    )
    assert np.asarray(Image.open(tmp_path / "first/examples/panda-PushCube/side.png")).shape == (56, 56, 3)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("storage", ["images", "video"])
def test_a_worker_killed_at_work_changes_nothing(collected, tmp_path, ray_cluster, storage):
    config = RenderConfig(chunk=4, variants=8, storage=storage)
    render_here(config, tmp_path / "undisturbed", collected)
    killed = []

    def kill() -> None:
        """Kills the workers once the first part is there, while the other one is being made."""
        end = time.monotonic() + 120
        while not list(tmp_path.glob("disturbed/parts/panda*")) and time.monotonic() < end:
            time.sleep(0.01)
        for process in psutil.Process().children(recursive=True):
            if "MapWorker" in process.name() or "MapWorker" in " ".join(process.cmdline()):
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process.pid)

    hunter = threading.Thread(target=kill)
    hunter.start()
    render(config, make_context(tmp_path / "disturbed", collected))
    hunter.join()
    assert killed
    assert folder_hash(tmp_path / "disturbed/lerobot") == folder_hash(tmp_path / "undisturbed/lerobot")


def test_a_camera_that_could_end_up_in_the_table_is_refused_before_anything_is_drawn(collected, tmp_path):
    config = RenderConfig(variants=2, look=LookConfig(eye_jitter_m=0.8))
    with pytest.raises(UserError, match=r"camera front at .* moved by up to 0.8 m stands inside the table or under it"):
        render(config, make_context(tmp_path, collected))
    assert not (tmp_path / "parts").exists()


def test_odd_pictures_do_not_fit_into_videos(collected, tmp_path):
    world = WorldConfig(cells=CELLS, cameras=("front",), image_px=57)
    with pytest.raises(UserError, match=r"image_px is 57; videos .* even"):
        render(RenderConfig(storage="video"), make_context(tmp_path, collected, world=world))


@pytest.mark.parametrize(
    "options",
    [{"stride": 3}, {"stride": 0}, {"image_format": "gif"}, {"chunk": 0}, {"variants": 0}, {"storage": "film"}],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError, match=f"render.{next(iter(options))} is"):
        RenderConfig(**options)
