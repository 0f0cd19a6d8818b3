"""ShareRobot's planning questions: LLaVA's layout, frames of an episode as pictures.

    {"id": "...", "task": "Future_Prediction_Task", "selected_step": 3,
     "image": ["/mnt/.../rt_frames_success/.../frame_0.png", ...],
     "conversations": [{"from": "human", "value": "<image> <image> \\nAfter <...>, what comes next?"}, ...]}

Paths are those of the machine it was made on; what counts follows `rt_frames_success/`. Frames have no times, so they
stay pictures. Ids name episodes, which many questions share.
"""

from collections.abc import Iterator
from dataclasses import replace

from blm.pipelines.datasets.readers import llava
from blm.pipelines.datasets.readers.fields import Sample
from blm.pipelines.datasets.readers.record import MediaRef, Options, Place, Record

FRAMES = "rt_frames_success/"
_HOMES = (FRAMES, "", f"images/{FRAMES}", f"planning/images/{FRAMES}", f"planning/{FRAMES}")
"""Where people unpack the frames: under the media root, the likeliest first."""


def read(sample: Sample, place: Place, options: Options) -> Iterator[Record]:
    """The conversation of one sample."""
    for record in llava.read(sample, place, options):
        yield replace(record, images=tuple(frame(picture) for picture in record.images))


def frame(picture: MediaRef) -> MediaRef:
    """A frame wherever its archive was unpacked."""
    if not picture.paths or FRAMES not in picture.paths[0]:
        return picture
    tail = picture.paths[0].rpartition(FRAMES)[2]
    own = () if picture.paths[0].startswith("/") else picture.paths
    return MediaRef(paths=tuple(dict.fromkeys((*own, *(home + tail for home in _HOMES)))))
