"""Videos: frames in, a file out that decodes to them, or no file at all."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from blm.actors.sim.video import frames, held, write_video

Picture = npt.NDArray[np.uint8]


def colours(count: int, width: int = 64, height: int = 48) -> list[Picture]:
    """Plain pictures, each of another brightness."""
    return [np.full((height, width, 3), 10 * i, np.uint8) for i in range(count)]


def decode(path: Path) -> tuple[list[Picture], float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)], float(stream.average_rate)


def test_a_video_decodes_to_the_pictures_it_was_made_from(tmp_path: Path) -> None:
    assert write_video(tmp_path / "new" / "v.mp4", colours(20), fps=20) == 20
    pictures, fps = decode(tmp_path / "new" / "v.mp4")
    assert fps == 20
    assert [picture.shape for picture in pictures] == [(48, 64, 3)] * 20
    for i, picture in enumerate(pictures):
        assert abs(float(picture.mean()) - 10 * i) < 4
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["v.mp4"]


def test_a_writer_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def breaking() -> Iterator[Picture]:
        yield from colours(3)
        raise RuntimeError("camera lost")

    with pytest.raises(RuntimeError, match="camera lost"):
        write_video(tmp_path / "v.mp4", breaking(), fps=20)
    with pytest.raises(ValueError, match="no pictures"):
        write_video(tmp_path / "v.mp4", [], fps=20)
    with pytest.raises(ValueError, match="63x48 px; both sides must be even"):
        write_video(tmp_path / "v.mp4", colours(2, width=63), fps=20)
    assert list(tmp_path.iterdir()) == []


def test_the_last_picture_is_held() -> None:
    assert [picture[0, 0, 0] for picture in held(colours(2), 3)] == [0, 10, 10, 10, 10]
    assert list(held([], 3)) == []


@pytest.mark.sim
def test_an_episode_is_filmed_from_its_states(tmp_path: Path) -> None:
    from blm.actors.sim.env import CellEnv
    from blm.actors.sim.outcome import RolloutConfig, RolloutItem
    from blm.actors.sim.policies import RandomPolicy
    from blm.actors.sim.runner import RolloutRunner
    from blm.actors.sim.world import WorldConfig, parse_cell

    cell = parse_cell("panda/PushCube")
    runner = RolloutRunner(WorldConfig(cells=(cell.name,)), RolloutConfig(max_steps=12), RandomPolicy(0.3), slots=1)
    (finished,) = runner.run([RolloutItem(cell=cell, seed=1_000_000, keep=tmp_path / "kept")])
    episode = finished.episode
    assert episode is not None
    env = CellEnv(cell, cameras=("side",), image_px=96)
    pictures = list(frames(env, episode, "side"))
    assert [picture.shape for picture in pictures] == [(96, 96, 3)] * 13
    assert not np.array_equal(pictures[0], pictures[-1])
    env.reset(1_000_000)
    for action in episode.actions:
        env.step(action)
    last = env.render()["side"].astype(int)
    assert (
        np.abs(pictures[-1] - last).max() <= 2
    )  # states are the episode: acting it out again ends in the same picture
    write_video(tmp_path / "v.mp4", pictures, fps=20)
    assert (tmp_path / "v.mp4").stat().st_size < 40_000
    env.close()
    runner.close()
