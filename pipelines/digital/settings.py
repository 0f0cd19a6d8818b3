"""What `blm evaluate digital` is asked to do, checked before anything is started."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from blm.model.embodiments import suggest
from blm.model.errors import UserError
from blm.pipelines.digital.benchmarks import BENCHMARKS, LANGUAGE, NAMES, LoadRules
from blm.pipelines.digital.generate import EngineConfig, Reading
from blm.pipelines.digital.judge import JudgeConfig
from blm.pipelines.digital.marks import LABELS, Scorer
from blm.pipelines.digital.media import MediaRules

Grader = Literal["endpoint", "exact", "none"]

OURS = tuple(name for name, benchmark in BENCHMARKS.items() if benchmark.kind == "own")
"""What is asked from a corpora folder."""
PAPER = tuple(name for name in BENCHMARKS if name not in OURS)
"""The six of the paper."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """One evaluation."""

    engine: EngineConfig
    """The model and what generates with it."""
    out: Path
    """Folder of the results."""
    benchmarks: Path | None = None
    """Folder below which the published benchmarks lie."""
    hub: bool = False
    """Whether they are fetched from the Hugging Face hub instead."""
    corpora: Path | None = None
    """Corpora folder, for our own questions and for plain language."""
    texts: tuple[Path, ...] = ()
    """Files or folders on which the reading of plain language is measured too."""
    only: tuple[str, ...] = ()
    """What is measured; empty: the six, or what the folders given allow."""
    load: LoadRules = field(default_factory=LoadRules)
    """How questions are put."""
    media: MediaRules = field(default_factory=MediaRules)
    """What is shown of pictures and videos."""
    reading: Reading
    """How letters are read."""
    judge: JudgeConfig | None = None
    """Who grades free answers."""
    verdicts: Path | None = None
    """File of verdicts; None: one in `out`."""
    grader: Grader = "none"
    """Whether an endpoint grades them, equal words do, or nobody."""
    scorer: Scorer = "judge"
    """How ShareRobot is scored."""
    limit: int = 0
    """Questions of each benchmark; 0: all."""
    allow_missing: bool = False
    """Whether a score is given although media are missing; they count as wrong."""
    label: str = ""
    """The model's name in tables."""
    compare: tuple[Path, ...] = ()
    """`digital.json` of other models, to stand beside it."""

    def __post_init__(self) -> None:
        for name in self.only:
            if name not in NAMES:
                raise UserError(f"--only: {suggest(name, NAMES)}")
        if self.limit < 0:
            raise UserError(f"--limit is {self.limit}; give 0 or more")
        if (self.grader == "endpoint") != (self.judge is not None):
            raise UserError("a judge behind an endpoint needs both --judge-url and --judge-model")
        wanted = self.chosen
        if not wanted:
            raise UserError("nothing to ask: give --benchmarks FOLDER, --hub or --corpora FOLDER")
        if set(wanted) & set(PAPER) and self.benchmarks is None and not self.hub:
            raise UserError("give the folder of the benchmarks with --benchmarks, or fetch them with --hub")
        if set(wanted) & set(OURS) and self.corpora is None:
            raise UserError(f"{OURS[0]}: give a corpora folder with --corpora")
        for folder, option in (
            (self.benchmarks, "--benchmarks"),
            (self.corpora, "--corpora"),
            (self.load.frames, "--frames"),
        ):
            if folder is not None and not folder.is_dir():
                raise UserError(f"{option} {folder} is no folder; correct the path")

    @property
    def chosen(self) -> tuple[str, ...]:
        """What is measured, in the order of the tables."""
        published = PAPER if self.benchmarks is not None or self.hub else ()
        ours = (*OURS, LANGUAGE) if self.corpora is not None else (LANGUAGE,) if self.texts else ()
        return tuple(name for name in NAMES if name in (self.only or (*published, *ours)))

    @property
    def scorers(self) -> dict[str, Scorer]:
        """How each judged benchmark is scored."""
        usual: Scorer = "exact" if self.grader == "exact" else "judge"
        scorers = {name: usual for name in PAPER if BENCHMARKS[name].kind == "judged"}
        if self.scorer in LABELS:
            scorers["sharerobot"] = self.scorer
        return scorers

    @property
    def name(self) -> str:
        """The model's name in tables."""
        folder = Path(self.engine.model)
        if self.label or not folder.is_dir():
            return self.label or self.engine.model
        parts = folder.resolve().parts
        return "/".join(parts[-2:]) if parts[-1] == "model" else parts[-1]
