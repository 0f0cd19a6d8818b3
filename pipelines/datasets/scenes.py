"""Ray Data workers of the corpora stage: scenes to parts, parts to conversations.

A part is a Parquet file with one row a scene: its encoded pictures and what the simulator knows about it.
Conversations are written from parts in a second pass, after all scenes are known; changing the questions
needs no new pictures.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from blm.actors.sim.tasks import TASKS
from blm.actors.sim.world import WorldConfig, parse_cell, seed_range
from blm.model.prompts import Message
from blm.pipelines.datasets.chat import ChatRow, chat_turn, write_chat
from blm.pipelines.datasets.parquet import read_table, write_table
from blm.pipelines.datasets.questions import COLORS, answers, question, with_images
from blm.pipelines.datasets.scene_facts import SceneFacts
from blm.pipelines.datasets.visible import box_px

if TYPE_CHECKING:  # the simulator takes seconds to import, and only the workers need it
    from blm.actors.sim.episode import Episode

SOURCE = "simulator"
TEST_EPISODE_EVERY = 10
"""Demonstrations whose seed is one less than a multiple of this lend scenes to the test split only, all
others to training.
"""
HIDDEN_BY_ARM = ("PullCube",)
"""Tasks during which the arm often hides the object from all cameras (a Panda pulling: in one scene in four). What
cannot be seen is not painted, so that nobody is asked for its colour.
"""
COVERED_BY_GOAL_M = {"PickCube": 0.035}
"""Tasks whose goal is drawn as a thing of its own in the air, and how near to its middle it covers the object. There
the object is not painted either: of its colour a few pixels are left, and next steps there are rare enough to be asked.
"""
KEPT_FILES = 50
"""Files of demonstrations a worker keeps in memory, each a few hundred kilobytes."""

PART_SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("cell", pa.string()),
        ("seed", pa.int64()),
        ("origin", pa.string()),
        ("images", pa.list_(pa.binary())),
        ("digest", pa.string()),
        ("object_positions", pa.list_(pa.float32())),
        ("gripper", pa.float32()),
        ("success", pa.bool_()),
        ("color", pa.string()),
    ]
)


def in_split(seed: int, split: str) -> bool:
    """Whether demonstrations of that seed are shown in a split. The same for all robots, since one seed gives them the
    same scene.
    """
    return (seed % TEST_EPISODE_EVERY == TEST_EPISODE_EVERY - 1) == (split == "test")


class SceneWorker:
    """Renders one piece of work (`corpora_scenes.scene_items`) to its part. Called by Ray Data, or without."""

    def __init__(self, config: Any, world: WorldConfig, seed: int) -> None:
        """`config` is the stage's CorporaConfig."""
        from blm.actors.composer import ComposeConfig
        from blm.actors.renderer import Renderer

        self.config = config
        self.compose_config = ComposeConfig(episode_share=config.episode_share, move_share=config.move_share)
        self.renderer = Renderer(world)
        self.seed = seed
        self._opened: dict[str, list[Episode]] = {}

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        episodes = [episode for source in item["sources"] for episode in self._episodes(source, item["split"])]
        rows = [self._scene(item, item["first"] + i, episodes) for i in range(item["count"])]
        write_table(Path(item["part"]), pa.Table.from_pylist(rows, schema=PART_SCHEMA))
        return {"part": item["part"], "scenes": len(rows)}

    def _episodes(self, source: str, split: str) -> "list[Episode]":
        """A file's demonstrations that belong to a split. The files read last are kept: pieces of work share them."""
        from blm.actors.sim.episode import read_episodes

        if source not in self._opened:
            if len(self._opened) == KEPT_FILES:
                del self._opened[next(iter(self._opened))]
            self._opened[source] = read_episodes(Path(source))
        return [e for e in self._opened[source] if in_split(e.seed, split)]

    def _scene(self, item: dict[str, Any], index: int, episodes: "Sequence[Episode]") -> dict[str, Any]:
        """Scene number `index` of a cell and split: the same whichever worker makes it."""
        from blm.actors.composer import compose
        from blm.actors.renderer import encode_picture, paint_object

        rng = np.random.default_rng([self.seed, int(item["split"] == "test"), item["cell_index"], index])
        cell = parse_cell(item["cell"])
        env = self.renderer.env(cell)
        seed = seed_range(f"corpora_{item['split']}")[index]
        scene = compose(env, seed=seed, rng=rng, episodes=episodes, config=self.compose_config)
        color = str(rng.choice(list(COLORS))) if rng.random() < self.config.recolor_share else None
        if _covered(cell.task, np.asarray(env.object_positions())):
            color = None
        if color is None:
            pictures = env.render()
        else:
            own = paint_object(env, COLORS[color])
            pictures = env.render()
            paint_object(env, own)
            if cell.task in HIDDEN_BY_ARM:
                plain = env.render()
                if all(box_px(plain[name], picture) is None for name, picture in pictures.items()):
                    pictures, color = plain, None
        images = [encode_picture(picture, self.config.image_format) for picture in pictures.values()]
        return {
            "index": index,
            "cell": cell.name,
            "seed": scene.seed,
            "origin": scene.origin,
            "images": images,
            "digest": hashlib.sha256(b"".join(images)).hexdigest(),
            "object_positions": env.object_positions().tolist(),
            "gripper": float(env.proprio()[-1]),
            "success": env.success(),
            "color": color,
        }


def _covered(task: str, positions: np.ndarray) -> bool:
    """Whether the goal stands where the object is. positions: world metres of tool, object and goal, 9 numbers."""
    _, thing, goal = positions.reshape(3, 3)
    return bool(np.linalg.norm(thing - goal) < COVERED_BY_GOAL_M.get(task, 0.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class PartRow:
    """A row of a part without its pictures."""

    cell: str
    """`robot/Task`."""
    seed: int
    """Scene seed."""
    digest: str
    """Hash of the pictures."""
    scene: SceneFacts
    """What can be asked about."""


def facts_of(parts: Sequence[Path]) -> list[PartRow]:
    """What is known of every scene of these parts, in order, without reading pictures."""
    columns = [name for name in PART_SCHEMA.names if name != "images"]
    return [_part_row(row) for part in parts for row in read_table(part, columns).to_pylist()]


def _part_row(row: dict[str, Any]) -> PartRow:
    scene = SceneFacts(
        task=parse_cell(row["cell"]).task,
        object_positions=tuple(row["object_positions"]),
        gripper=row["gripper"],
        success=row["success"],
        color=row["color"],
    )
    return PartRow(cell=row["cell"], seed=row["seed"], digest=row["digest"], scene=scene)


class ConversationWriter:
    """Writes the conversations about one part's scenes to one chat file. Called by Ray Data; works as well without."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Item: `part`, `out`, `split`, and for every scene its categories, one a line, none if it is left out."""
        rows: list[ChatRow] = []
        for row, lines in zip(read_table(Path(item["part"])).to_pylist(), item["questions"], strict=True):
            categories = lines.split()
            rows += (
                self._training_row(row, categories) if item["split"] == "train" else self._test_rows(row, categories)
            )
        write_chat(Path(item["out"]), rows)
        return {"out": item["out"], "rows": len(rows)}

    def _training_row(self, row: dict[str, Any], categories: list[str]) -> list[ChatRow]:
        """One conversation of several questions about the same pictures."""
        if not categories:
            return []
        cell, rng, known = self._known(row, "train")
        messages: list[Message] = []
        for i, category in enumerate(categories):
            text = question(category, TASKS[cell.task], rng)
            messages += chat_turn(with_images(text, len(row["images"])) if i == 0 else text, known[category])
        return [
            ChatRow(
                id=f"{SOURCE}-train-{cell.slug}-{row['index']:06d}",
                source=SOURCE,
                category="mixed",
                images=tuple(row["images"]),
                messages=tuple(messages),
                meta=_meta(row) | {"categories": categories},
            )
        ]

    def _test_rows(self, row: dict[str, Any], categories: list[str]) -> list[ChatRow]:
        """One conversation a question; every second one is asked in words that training never uses."""
        cell, rng, known = self._known(row, "test")
        rows = []
        for i, category in enumerate(categories):
            held_out = (row["index"] + i) % 2 == 1
            text = question(category, TASKS[cell.task], rng, held_out=held_out)
            rows.append(
                ChatRow(
                    id=f"{SOURCE}-test-{cell.slug}-{row['index']:06d}-{category}",
                    source=SOURCE,
                    category=category,
                    images=tuple(row["images"]),
                    messages=chat_turn(with_images(text, len(row["images"])), known[category]),
                    meta=_meta(row) | {"phrasing": "held_out" if held_out else "seen"},
                )
            )
        return rows

    def _known(self, row: dict[str, Any], split: str) -> tuple[Any, np.random.Generator, dict[str, str]]:
        cell = parse_cell(row["cell"])
        words = [self.seed, 20, int(split == "test"), *cell.name.encode(), row["index"]]
        return cell, np.random.default_rng(words), answers(_part_row(row).scene)


def _meta(row: dict[str, Any]) -> dict[str, Any]:
    cell = parse_cell(row["cell"])
    return {
        "robot": cell.robot,
        "task": cell.task,
        "seed": row["seed"],
        "origin": row["origin"],
        "object_positions": [round(value, 5) for value in row["object_positions"]],
    }
