"""What can be left out or varied, as data: every ablation is a name and the options it overrides.

A sweep is an ablation for each of several values of one option, chosen around the one of the preset; `layer=2` names
one of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from blm.model.errors import UserError
from blm.pipelines.schema import nearest

BASE = "base"
"""What everything else is compared with: the configuration as asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ablation:
    """One change of the configuration."""

    name: str
    about: str
    """A line for people."""
    overrides: tuple[str, ...]
    """As after `--set`."""
    beside: tuple[str, ...] = ()
    """Overridden as well, so that it can run; changes no result."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """An ablation for each of several values of a whole number."""

    name: str
    about: str
    option: str
    """The option, dotted."""
    factors: tuple[float, ...]
    """Its values by default, in units of the configuration's own."""
    most: Callable[[Any], int | None] = lambda config: None
    """Largest value that a configuration allows, where that is known without loading a model."""
    beside: tuple[str, ...] = ()
    """As in `Ablation`."""

    def at(self, value: int) -> Ablation:
        """The ablation for one value."""
        return Ablation(
            name=f"{self.name}={value}",
            about=f"{self.about}: {value}",
            overrides=(f"{self.option}={value}",),
            beside=self.beside,
        )

    def values(self, config: Any) -> list[int]:
        """The values by default, ascending; the configuration's own is left out."""
        own, most = _value(config, self.option), self.most(config)
        values = sorted({max(1, round(own * factor)) for factor in self.factors} - {own})
        return [value for value in values if most is None or value <= most]


Table = Sequence[Ablation | Sweep]


def _depth(config: Any) -> int | None:
    """Blocks of the language model."""
    return config.stage1.tiny.depth if config.stage1.backbone == "tiny" else None


GO_ON = ("intents.gate=warn",)
"""Intents that locate no object are a result here, not a reason to stop."""

ABLATIONS: Table = (
    Ablation(
        name="no_stage1",
        about="the backbone as it was initialised or published",
        overrides=("stage1.steps=0", "stage1.vision_steps=0"),
        beside=GO_ON,
    ),
    Ablation(
        name="no_conversations",
        about="of Stage I the warm-up of a tiny backbone's vision alone",
        overrides=("stage1.steps=0",),
        beside=GO_ON,
    ),
    Ablation(
        name="no_grounding",
        about="of Stage I the conversations alone",
        overrides=("stage1.grounding_weight=0", "stage1.vision_steps=0"),
        beside=GO_ON,
    ),
    Ablation(
        name="no_future",
        about="without the future-prediction loss and its tokens",
        overrides=("stage2.policy.future_weight=0",),
    ),
    Sweep(
        name="layer",
        about="intents after block",
        option="intents.layer",
        factors=(1 / 3, 2 / 3, 4 / 3, 2),
        most=_depth,
        beside=GO_ON,
    ),
    Sweep(
        name="latents",
        about="intent tokens of the bridge",
        option="stage2.policy.latents",
        factors=(1 / 4, 1 / 2, 2, 4),
    ),
    Ablation(
        name="cache_off",
        about="the frozen model in the loop of Stage II, nothing stored",
        overrides=("intents.cache=none",),
        beside=GO_ON,
    ),
)
"""The table behind `blm ablate`."""

COMMON = ("evaluate.random_episodes_per_cell=0", "evaluate.baseline=false", "evaluate.videos_per_cell=0")
"""Overridden in every ablation: what does not depend on our policy is measured once, in the base."""


def choose(words: Sequence[str], config: Any, table: Table = ABLATIONS) -> list[Ablation]:
    """The ablations that words name, each once, in the table's order and sweeps by value; all of them without a word.

    words: names of the table (of a sweep: its values by default), or `sweep=value`.
    config: the base's. UserError for a word that names nothing.
    """
    names = [entry.name for entry in table]
    chosen: dict[str, tuple[int, int, Ablation]] = {}
    for word in words or names:
        name, equals, text = word.partition("=")
        if name not in names:
            raise UserError(f"no ablation is called {name!r}; {nearest(name, names)}")
        place = names.index(name)
        for value, ablation in _meant(table[place], equals, text, config):
            chosen.setdefault(ablation.name, (place, value, ablation))
    return [ablation for *_, ablation in sorted(chosen.values(), key=lambda entry: entry[:2])]


def _meant(entry: Ablation | Sweep, equals: str, text: str, config: Any) -> list[tuple[int, Ablation]]:
    """(value, ablation) of what a word says about an entry of the table."""
    if isinstance(entry, Ablation):
        if equals:
            raise UserError(f"ablation {entry.name} has no values; write {entry.name} alone")
        return [(0, entry)]
    if not equals:
        return [(value, entry.at(value)) for value in entry.values(config)]
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"ablation {entry.name}={text}: give a whole number from 1 on")
    return [(int(text), entry.at(int(text)))]


def _value(config: Any, option: str) -> int:
    """The value of a dotted option."""
    value = config
    for name in option.split("."):
        value = getattr(value, name)
    return value
