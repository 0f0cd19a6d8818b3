"""What is written down while Stage I trains: points of the curve, and what the run came to.

Sums since the last point belong to the training checkpoint, so that a resumed run draws the curve it would have
drawn. Speed is measured anew.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from blm.pipelines.finetune.batches import StepBatches
from blm.pipelines.finetune.step import Taken

LOG_EVERY = 25
"""Steps between points."""
_SUMMED = ("language", "grounding", "answers", "known", "norm", "steps", "rows", "tokens", "saved", "imbalance")


@dataclass(kw_only=True, slots=True)
class Curve:
    """Sums since the last point, of finite steps alone; the same on every worker."""

    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_SUMMED, 0.0))
    flops: float = 0.0
    """This worker's, since the last point of this process."""
    _since: float = field(default_factory=time.monotonic)
    _measured: dict[str, int] = field(default_factory=lambda: {"rows": 0, "tokens": 0})

    def add(self, batches: StepBatches, taken: Taken, flops: float) -> None:
        """Count a step."""
        self._measured["rows"] += batches.rows
        self._measured["tokens"] += batches.tokens
        self.flops += flops
        if not taken.finite:
            return
        language, grounding = taken.sums.tolist()
        now = {
            "language": language,
            "grounding": grounding,
            "answers": batches.answers,
            "known": batches.known,
            "norm": taken.norm,
            "steps": 1,
            "rows": batches.rows,
            "tokens": batches.tokens,
            "saved": batches.padding_saved,
            "imbalance": batches.imbalance,
        }
        for name, value in now.items():
            self.sums[name] += value

    def point(self, step: int, learning_rate: float, skipped: int, peak_flops: float) -> dict[str, Any]:
        """The point at `step`, the same on every worker but for speeds. Sums begin anew.

        peak_flops: what a worker's device can do in a second; 0 if unknown.
        """
        passed = max(time.monotonic() - self._since, 1e-9)
        sums, steps = self.sums, max(self.sums["steps"], 1.0)
        point = {
            "step": step,
            "loss": round(sums["language"] / max(sums["answers"], 1.0), 6),
            "grounding": round(sums["grounding"] / max(sums["known"], 1.0), 6),
            "learning_rate": learning_rate,
            "gradient_norm": round(sums["norm"] / steps, 5),
            "padding_saved": round(sums["saved"] / steps, 4),
            "imbalance": round(sums["imbalance"] / steps, 4),
            "skipped": skipped,
            "samples_per_s": round(self._measured["rows"] / passed, 1),
            "tokens_per_s": round(self._measured["tokens"] / passed, 1),
        }
        if peak_flops:
            point["mfu"] = round(self.flops / passed / peak_flops, 4)
        self.sums = dict.fromkeys(_SUMMED, 0.0)
        self.flops, self._since, self._measured = 0.0, time.monotonic(), {"rows": 0, "tokens": 0}
        return point
