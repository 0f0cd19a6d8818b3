"""EgoThink: twelve folders of `annotations.json` with the pictures in `images` beside it.

{"source_dataset": "ego4d", "image_path": ["1.jpg"], "question": "What am I doing?", "answer": "tightening the screws"}
"""

from collections.abc import Iterator

from blm.pipelines.datasets.readers.fields import Sample, facts, text
from blm.pipelines.datasets.readers.media_refs import basename, media_list
from blm.pipelines.datasets.readers.record import MediaRef, Options, Place, Record
from blm.pipelines.datasets.readers.turns import build_record


def read(sample: Sample, place: Place, options: Options) -> Iterator[Record]:
    """The conversation of one sample; its category is the folder: `Activity`, `Object/existence`."""
    given = media_list(sample.get("image_path", sample.get("image")))
    yield build_record(
        [("user", text(sample, "question")), ("assistant", text(sample, "answer"))],
        place=place,
        images=tuple(beside(picture) for picture in given),
        category=category(place),
        meta=facts(sample, ("image_path", "image", "question", "answer")),
    )


def beside(picture: MediaRef) -> MediaRef:
    """A picture in the folder `images`, whatever path the row gives it."""
    if not picture.paths:
        return picture
    return MediaRef(paths=(f"images/{basename(picture.paths[0])}", *picture.paths))


def category(place: Place) -> str:
    """The folder, with the one above it where that is one of EgoThink's groups."""
    *_, above, name = ("", "", *place.folder.rstrip("/").split("/"))
    groups = ("Localization", "Object", "Planning", "Reasoning")
    return f"{above}/{name}" if above in groups else name[:60]
