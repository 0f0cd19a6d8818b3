"""Videos of episodes, drawn afterwards from kept states, so that no rollout waits for a picture nobody acts on."""

import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from blm.actors.sim.env import CellEnv
from blm.actors.sim.episode import Episode

Picture = npt.NDArray[np.uint8]

HOLD_S = 0.5
"""How long the last frame stands, so that the end can be seen."""
QUALITY = "23"
"""x264's constant rate factor: its own default, about 50 kB for three seconds at 224 px."""


def frames(env: CellEnv, episode: Episode, camera: str) -> Iterator[Picture]:
    """Every state of an episode as `camera` sees it, uint8 [H,W,3]. `env` is a simulator of the episode's cell."""
    for state in episode.states:
        env.set_state(state)
        yield env.render()[camera]


def write_video(path: Path, pictures: Iterable[Picture], *, fps: int) -> int:
    """Write an H.264 MP4 that browsers play, whole or not at all; returns the number of frames.

    pictures: uint8 [H,W,3] of one size, both sides even. ValueError if there is none or a side is odd.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        with av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container:
            count = _encode(container, pictures, fps)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _encode(container: av.container.OutputContainer, pictures: Iterable[Picture], fps: int) -> int:
    stream = container.add_stream("libx264", rate=fps, options={"crf": QUALITY, "preset": "veryfast"})
    stream.pix_fmt = "yuv420p"  # the only pixel format that every browser plays
    stream.codec_context.thread_count = 1  # other processes have the other cores
    count = 0
    for picture in pictures:
        if count == 0:
            stream.height, stream.width = picture.shape[:2]
            if stream.height % 2 or stream.width % 2:
                raise ValueError(f"a video of {stream.width}x{stream.height} px; both sides must be even")
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        count += 1
    if count == 0:
        raise ValueError("a video of no pictures")
    container.mux(stream.encode(None))
    return count


def held(pictures: Iterable[Picture], count: int) -> Iterator[Picture]:
    """The pictures, and the last one `count` times more."""
    last = None
    for picture in pictures:
        last = picture
        yield picture
    if last is not None:
        yield from [last] * count
