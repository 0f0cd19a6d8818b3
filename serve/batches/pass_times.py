"""How long a request would wait, from how long passes took lately."""

import math

_NEW = 0.3
"""Weight of the newest pass."""


class PassTimes:
    """Durations of passes by size, averaged with more weight on the newest."""

    def __init__(self) -> None:
        self._known_ms: dict[int, float] = {}

    def note(self, observations: int, took_ms: float) -> None:
        """A pass with so many observations took so long."""
        size = _size(observations)
        before = self._known_ms.get(size, took_ms)
        self._known_ms[size] = before + _NEW * (took_ms - before)

    def of(self, observations: int) -> float:
        """How long one pass with so many takes, in ms; of a size never seen: as long as the nearest smaller one, or
        else the nearest larger; 0 before the first."""
        size = _size(observations)
        smaller = [known for known in self._known_ms if known <= size]
        nearest = max(smaller) if smaller else min(self._known_ms, default=0)
        return self._known_ms.get(nearest, 0.0)


def _size(observations: int) -> int:
    """The power of two that is nearest from above."""
    return 1 << math.ceil(math.log2(max(observations, 1)))
