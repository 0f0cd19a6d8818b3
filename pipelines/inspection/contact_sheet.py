"""One picture of everything that was collected: first, middle and last frame of every cell's first episode.

blm data sheet runs/grid24 --out sheet.png
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from blm.actors.sim.cameras import CAMERAS
from blm.actors.sim.episode import Episode, collected_folders, episode_files, read_episodes
from blm.actors.sim.tasks import TASKS
from blm.model.embodiments import EMBODIMENTS, suggest
from blm.model.errors import UserError
from blm.pipelines.inspection.drawing import Drawer, Picture

MOMENTS = ("first", "middle", "last")
CELLS_IN_ONE_COLUMN = 8
"""With more, cells stand in two columns."""
GAP_PX, LABEL_PX, HEAD_PX = 4, 20, 24
PAPER, INK, SOFT = (250, 250, 247), (29, 33, 38), (93, 102, 112)


def first_episodes(folder: Path) -> list[Episode]:
    """The first episode of every cell at or below a folder, by robot and task. UserError if there is none."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give one with collected episodes")
    first: dict[str, Episode] = {}
    for root in collected_folders(folder):
        done: set[Path] = set()
        for path in episode_files(root):
            if path.parent in done:
                continue
            for episode in read_episodes(path):
                first.setdefault(episode.cell, episode)
                done.add(path.parent)
    if not first:
        raise UserError(f"{folder} holds no collected episodes (episodes/*/*.parquet); run `blm collect` first")
    robots, tasks = list(EMBODIMENTS), list(TASKS)
    return sorted(first.values(), key=lambda one: (robots.index(one.robot), tasks.index(one.task)))


def contact_sheet(folder: Path, out: Path, *, cameras: Sequence[str] = ("front", "side"), picture_px: int = 160) -> int:
    """Write the sheet as PNG. Returns the number of cells. UserError for bad input."""
    for camera in cameras:
        if camera not in CAMERAS:
            raise UserError(f"unknown camera {camera!r}; {suggest(camera, CAMERAS)}")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent} is not a folder; give --out a file in one that exists")
    episodes = first_episodes(folder)
    drawer = Drawer(cameras, picture_px)
    try:
        strips = [
            (one.cell, f"seed {one.seed}, {len(one.actions)} steps: {one.instruction}", three_moments(drawer, one))
            for one in episodes
        ]
    finally:
        drawer.close()
    headings = [f"{camera}, {moment}" for camera in cameras for moment in MOMENTS]
    image = compose(strips, headings, picture_px)
    temporary = out.with_name(f".tmp-{os.getpid()}-{out.name}")
    try:
        image.save(temporary, "PNG")
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return len(strips)


def three_moments(drawer: Drawer, episode: Episode) -> list[Picture]:
    """First, middle and last state as every camera sees it, camera by camera."""
    moments = drawer.draw(episode, (0, len(episode.actions) // 2, len(episode.actions)))
    return [moment[camera] for camera in drawer.cameras for moment in moments]


def compose(strips: Sequence[tuple[str, str, Sequence[Picture]]], headings: Sequence[str], side: int) -> Image.Image:
    """Strips (name, remark, pictures) under each other, in two columns where there are many."""
    columns = 1 if len(strips) <= CELLS_IN_ONE_COLUMN else 2
    rows = -(-len(strips) // columns)
    strip_px = len(headings) * (side + GAP_PX) + 2 * GAP_PX
    image = Image.new("RGB", (columns * strip_px, HEAD_PX + rows * (side + LABEL_PX + GAP_PX) + GAP_PX), PAPER)
    pen = ImageDraw.Draw(image)
    bold, plain = (ImageFont.load_default(size) for size in (14, 12))
    for column in range(columns):
        for place, heading in enumerate(headings):
            left = column * strip_px + GAP_PX + place * (side + GAP_PX)
            pen.text((left, 6), _fitting(heading, side, plain.getlength), font=plain, fill=SOFT)
    for number, (name, remark, pictures) in enumerate(strips):
        column, row = divmod(number, rows)
        left, top = column * strip_px + GAP_PX, HEAD_PX + row * (side + LABEL_PX + GAP_PX)
        pen.text((left, top), name, font=bold, fill=INK)
        indent = round(bold.getlength(name)) + 12
        room = strip_px - indent - 2 * GAP_PX
        pen.text((left + indent, top + 2), _fitting(remark, room, plain.getlength), font=plain, fill=SOFT)
        for place, picture in enumerate(pictures):
            image.paste(Image.fromarray(picture), (left + place * (side + GAP_PX), top + LABEL_PX))
    return image


def _fitting(text: str, width_px: int, measure: Callable[[str], float]) -> str:
    """As much of a text as fits."""
    while text and measure(text) > width_px:
        text = text[:-1]
    return text
