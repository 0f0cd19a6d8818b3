"""The table of benchmarks: what each is called, where it is published, how it is scored, and how it is loaded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from blm.pipelines.datasets.balance import evenly
from blm.pipelines.digital import cosmos, egothink, own, sharerobot
from blm.pipelines.digital.item import Item
from blm.pipelines.digital.locate import from_hub

Kind = Literal["choice", "judged", "own"]

LANGUAGE = "language"
"""Beside these: how well the model still reads plain language, see `blm.pipelines.retention`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadRules:
    """What loaders need to know beside the folder."""

    mode: cosmos.Mode = "letter"
    """How the Cosmos-Reason1 four are asked."""
    max_images: int = 30
    """Frames shown of a ShareRobot episode."""
    frames: Path | None = None
    """Where ShareRobot's frames lie, if not in the benchmarks' folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """One benchmark."""

    name: str
    """As it is chosen."""
    title: str
    """As it stands in tables."""
    kind: Kind
    """Multiple choice, graded by a judge, or our own questions."""
    expected: Mapping[str, int]
    """Sub-category -> number of questions that were published or follow from what was; empty where any number goes."""
    load: Callable[[Path, LoadRules], list[Item]]
    """Reads its items from a folder."""
    hub: str = ""
    """Dataset of the Hugging Face hub."""
    patterns: tuple[str, ...] = ()
    """Files of it that are needed."""

    @property
    def macro(self) -> bool:
        """Whether its score is the mean over sub-categories, each counting alike."""
        return self.kind == "judged"


def _cosmos(name: str, title: str, n: int) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        kind="choice",
        expected={name: n},
        load=lambda root, rules: cosmos.load(root, name, rules.mode),
        hub="nvidia/Cosmos-Reason1-Benchmark",
        patterns=(f"{name}/*",),
    )


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        _cosmos("robovqa", "RoboVQA", 110),
        _cosmos("agibot", "AgiBot", 100),
        _cosmos("holoassist", "HoloAssist", 100),
        _cosmos("robofail", "RoboFail", 100),
        Benchmark(
            name=egothink.NAME,
            title="EgoThink",
            kind="judged",
            expected=egothink.CATEGORIES,
            load=lambda root, rules: egothink.load(root),
            hub="lmms-lab/Egothink",
            patterns=("*/test-*.parquet",),
        ),
        Benchmark(
            name=sharerobot.NAME,
            title="ShareRobot",
            kind="judged",
            expected=sharerobot.CATEGORIES,
            load=lambda root, rules: sharerobot.load(root, rules.frames, rules.max_images),
            hub="BAAI/ShareRobot",
            patterns=("planning/test/*",),  # the frames are an archive of 320 GB
        ),
        Benchmark(
            name=own.NAME, title="held-out questions", kind="own", expected={}, load=lambda root, _: own.load(root)
        ),
    )
}
"""name -> benchmark, in the order of the paper's table."""

NAMES = (*BENCHMARKS, LANGUAGE)
"""Everything that can be chosen."""


def load_items(benchmark: Benchmark, root: Path | None, rules: LoadRules, limit: int = 0) -> list[Item]:
    """A benchmark's items; root None: from the hub. limit: at most so many, evenly over sub-categories; 0: all.

    UserError if they are not there or not readable.
    """
    items = benchmark.load(root or from_hub(benchmark.hub, benchmark.patterns), rules)
    chosen = sorted(evenly([item.id for item in items], [item.category for item in items], limit))
    return [items[place] for place in chosen]
