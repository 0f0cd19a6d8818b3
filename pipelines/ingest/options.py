"""What a person says about sources of conversations: where they are, how much of them, and what is refused."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blm.model.errors import UserError

OWN_SOURCES = ("simulator", "episodes", "language")
"""Names of what the corpora stage makes itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """One corpus from outside."""

    name: str
    """What its rows are called, in files, reports and mixtures; letters, digits, `_` and `.`."""
    path: Path
    """A file or folder in any format that the readers know."""
    format: str = "auto"
    """One of the readers' formats; `auto` looks at the files and says what it found."""
    media_root: Path | None = None
    """The folder that paths of pictures and videos start from; by default the folder of `path`."""
    fps: float = 1.0
    """Frames a second to keep of a video."""
    max_frames: int = 16
    """Frames to keep of a video at most, evenly spread."""
    max_pixels: int = 512 * 512
    """Larger pictures and frames are stored shrunk to this many pixels."""
    holdout: float = 0.0
    """Share of the rows that go to the test split. Rows about one clip or picture stay together."""
    limit: int = 0
    """Records to read at most, spread evenly over the source; 0 reads all."""
    system: str = ""
    """The system turn of rows without one: a name of `model.prompts.SYSTEM_PROMPTS`, or a text; none by default."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of fields where they are not the usual ones, as in LLaMA-Factory's dataset_info.json: messages, system,
    images, videos, prompt, query, response, history.
    """
    tags: dict[str, str] = field(default_factory=dict)
    """Names inside a turn and of roles, likewise: role_tag, content_tag, user_tag, assistant_tag, system_tag."""
    questions: int = 2
    """Conversations made of one episode of a LeRobot dataset."""
    category: str = ""
    """What the rows are about, where a record does not say it itself; by default the source's name."""

    def __post_init__(self) -> None:
        if not self.name or not self.name.replace("_", "").replace(".", "").isalnum() or self.name[0] in "._":
            raise UserError(f"a source is named {self.name!r}; give a name of letters, digits, '_' and '.'")
        if self.name in OWN_SOURCES:
            raise UserError(f"a source is named {self.name}, which is what blm makes itself; give another name")
        for name, least in (("max_frames", 1), ("max_pixels", 28 * 28), ("limit", 0), ("questions", 1)):
            if getattr(self, name) < least:
                raise UserError(f"source {self.name}: {name} is {getattr(self, name)}; give {least} or more")
        if not 0 < self.fps < float("inf"):
            raise UserError(f"source {self.name}: fps is {self.fps}; give frames a second, above 0")
        if not 0 <= self.holdout < 1:
            raise UserError(f"source {self.name}: holdout is {self.holdout}; give a share from 0 to below 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestConfig:
    """Everything that decides which rows come out."""

    sources: tuple[SourceConfig, ...]
    """In canonical order: of equal rows, that of the first source stays."""
    decontaminate: tuple[Path, ...] = ()
    """Folders of benchmarks whose items must not be trained on."""
    max_rejected_share: float = 0.05
    """Records of a source that may be refused before the run fails."""
    near_duplicates: bool = True
    """Whether rows nearly equal to an earlier one are left out too, not only equal ones."""
    piece_mb: float = 8.0
    """Size of a piece of work in megabytes of records, media not counted."""
    seed: int = 0
    """Decides which rows are held out."""

    def __post_init__(self) -> None:
        check_sources(self.sources)
        check_share(self.max_rejected_share)
        if not 0 < self.piece_mb < float("inf"):
            raise UserError(f"piece_mb is {self.piece_mb}; give megabytes, above 0")


def check_sources(sources: Sequence[SourceConfig]) -> None:
    """UserError if two sources have one name."""
    names = [source.name for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"two sources are named {', '.join(twice)}; give each a name of its own")


def check_share(max_rejected_share: float) -> None:
    """UserError unless it is a share."""
    if not 0 <= max_rejected_share <= 1:
        raise UserError(f"max_rejected_share is {max_rejected_share}; give a share from 0 to 1")
