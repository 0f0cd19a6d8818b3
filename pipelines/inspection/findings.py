"""What an inspection found: one line a kind of fault, counted, with the first few places where it is."""

from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["ok", "warning", "error"]

PLACES_NAMED = 4
"""Offending episodes or frames that a finding names; the others are counted."""

CHECKS = {
    "schema": "columns and types are what info.json declares and what the format demands",
    "files": "every file is there and readable to its end",
    "totals": "metadata and data agree on episodes, frames and tasks",
    "index": "episodes and frames are numbered without gaps",
    "time": "timestamps follow the frame rate",
    "finite": "no value is NaN or infinite",
    "limits": "joints, targets and gripper stay within the robot's limits, joints within its speeds",
    "stuck": "no joint stands still that moves in other episodes of its cell",
    "constant": "no value is the same in the whole dataset",
    "duplicates": "no episode is there twice",
    "pictures": "pictures decode, have the declared size, show something, and change",
    "lag": "states follow actions, soon, and equally soon in every episode",
    "smoothness": "no episode is much rougher than others of its cell",
    "statistics": "stats.json is what the data give",
    "cells": "every cell succeeds, and is as varied and as frequent as the others",
}
"""Name of every check and what it makes sure of, in the order in which they are shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One kind of fault, or one check that found none."""

    check: str
    """Key of `CHECKS`."""
    severity: Severity
    """`error`: whoever trains on it or opens it is misled; `warning`: worth a look."""
    detail: str
    """What is wrong, or what was looked at."""
    count: int = 0
    """How often."""
    places: tuple[str, ...] = ()
    """The first few."""

    def text(self) -> str:
        """Detail, count and places in one line."""
        if not self.places:
            return self.detail
        more = self.count - len(self.places)
        return f"{self.detail}: {', '.join(self.places)}{f' and {more} more' if more > 0 else ''}"


@dataclass(slots=True)
class Findings:
    """Collects faults as they are met."""

    _places: dict[tuple[str, Severity, str], list[str]] = field(default_factory=dict)
    _counts: dict[tuple[str, Severity, str], int] = field(default_factory=dict)
    _looked_at: dict[str, str] = field(default_factory=dict)

    def error(self, check: str, detail: str, place: str = "", *, count: int = 1) -> None:
        """A fault. Those of one check and detail are counted together, so `detail` holds nothing of the place."""
        self._add(check, "error", detail, place, count)

    def warn(self, check: str, detail: str, place: str = "", *, count: int = 1) -> None:
        """Something doubtful."""
        self._add(check, "warning", detail, place, count)

    def looked_at(self, check: str, what: str) -> None:
        """Says that a check was made, and of what: shown if it finds nothing."""
        self._looked_at[check] = what

    def _add(self, check: str, severity: Severity, detail: str, place: str, count: int) -> None:
        assert check in CHECKS, check
        key = (check, severity, detail)
        self._counts[key] = self._counts.get(key, 0) + count
        places = self._places.setdefault(key, [])
        if place and len(places) < PLACES_NAMED:
            places.append(place)

    def result(self) -> list[Finding]:
        """All findings by check, errors first; a check without faults is one line that says so."""
        found = []
        for check in CHECKS:
            faults = [
                Finding(check=check, severity=key[1], detail=key[2], count=count, places=tuple(self._places[key]))
                for key, count in self._counts.items()
                if key[0] == check
            ]
            if not faults and check in self._looked_at:
                faults = [Finding(check=check, severity="ok", detail=self._looked_at[check])]
            found += sorted(faults, key=lambda one: one.severity != "error")
        return found


def lines(findings: list[Finding]) -> list[str]:
    """The findings as a person reads them on a terminal."""
    words = {"ok": "ok", "warning": "WARN", "error": "ERROR"}
    return [f"  {words[one.severity]:<6} {one.check:<11} {one.text()}" for one in findings]


def verdict(findings: list[Finding]) -> str:
    """One line for all of them."""
    errors, warnings = (sum(one.severity == kind for one in findings) for kind in ("error", "warning"))
    if not errors and not warnings:
        return "nothing wrong"
    return ", ".join(
        f"{number} kind{'s' if number > 1 else ''} of {name}"
        for number, name in ((errors, "errors"), (warnings, "warnings"))
        if number
    )
