"""What is checked of every episode, and what is remembered of it to compare episodes with each other.

Episodes come one by one and are let go; a few numbers of each stay.
"""

import numpy as np

from blm.actors.sim.motion import roughness
from blm.pipelines.inspection import arrays
from blm.pipelines.inspection.compare import compare_contents, compare_lags, compare_movement, compare_roughness
from blm.pipelines.inspection.facts import Facts, ValueNames
from blm.pipelines.inspection.findings import Findings
from blm.pipelines.inspection.lag import Lag, LagMeter
from blm.pipelines.inspection.track import ACTION, POSITIONS, STATE, Track

STATE_BEYOND_RAD, ACTION_BEYOND_RAD = 0.02, 1e-3
"""How far a joint may be pressed past its limit, and how far a target may be set there."""
GRIPPER_BEYOND = 0.02
FASTER = 1.2
"""Times its rated speed that a joint may show between two frames."""
HELD_S = 0.5
"""How long a joint may show exactly the same value while others move."""
CONSTANT = 1e-7
"""A dimension that spans less over a whole dataset is constant."""


class EpisodeChecks:
    """Takes episodes one by one."""

    def __init__(
        self, findings: Findings, state_names: tuple[str, ...] = (), action_names: tuple[str, ...] = ()
    ) -> None:
        self.findings = findings
        self.names = ValueNames({STATE: state_names, ACTION: action_names})
        self.facts: list[Facts] = []
        self.meters: dict[tuple[str, str], LagMeter] = {}
        self.lower: dict[tuple[str, str], np.ndarray] = {}
        self.upper: dict[tuple[str, str], np.ndarray] = {}
        self.robots: set[str] = set()
        self.n_values = 0

    def add(self, track: Track) -> None:
        """Check one episode and remember what it is like."""
        state, action = track.matrix(STATE), track.matrix(ACTION)
        facts = Facts(
            label=track.label, number=track.number, cell=track.cell, robot=track.robot, task=track.task,
            length=track.length, seconds=track.length / track.fps if track.fps else 0.0, extra=dict(track.extra),
        )  # fmt: skip
        self._check_finite(track)
        self._check_limits(track)
        if state is not None:
            facts.spans = arrays.span(state)
            facts.roughness = roughness(state[:, :-1] if track.embodiment else state, track.fps)
            self._check_held(track, state)
        if state is not None and action is not None:
            facts.digest = arrays.digest(action, state)
            facts.lag_frames = self._measure_lag(track)
        positions = track.values.get(POSITIONS)
        if positions is not None and positions.shape[1:] == (9,) and len(positions):
            facts.object_start_m, facts.goal_start_m = (
                tuple(positions[0, 3:6].tolist()),
                tuple(positions[0, 6:9].tolist()),
            )
        self.facts.append(facts)

    def _check_finite(self, track: Track) -> None:
        for name, values in track.values.items():
            self.n_values += values.size
            bad = arrays.not_finite(values)
            if len(bad):
                self.findings.error(
                    "finite", f"{name} is not a number", f"{track.label} frame {bad[0]}", count=len(bad)
                )
            if name in (STATE, ACTION) and values.ndim == 2 and len(values) and not len(bad):
                key, low, high = (track.robot, name), values.min(axis=0), values.max(axis=0)
                if key in self.lower and self.lower[key].shape == low.shape:
                    low, high = np.minimum(low, self.lower[key]), np.maximum(high, self.upper[key])
                self.lower[key], self.upper[key] = low, high

    def _check_limits(self, track: Track) -> None:
        body = track.embodiment
        if body is None:
            return
        self.robots.add(body.name)
        lower, upper = np.array([*body.joint_lower_rad, 0.0]), np.array([*body.joint_upper_rad, 1.0])
        for column, beyond in ((STATE, STATE_BEYOND_RAD), (ACTION, ACTION_BEYOND_RAD)):
            values = track.matrix(column)
            if values is None:
                continue
            tolerance = np.array([beyond] * body.arm_dof + [GRIPPER_BEYOND])
            rows, dimensions = arrays.outside(values, lower, upper, tolerance)
            for dimension in np.unique(dimensions):
                where = rows[dimensions == dimension]
                value = f"{values[where[0], dimension]:.4g}, limits {lower[dimension]:.4g} to {upper[dimension]:.4g}"
                self.findings.error(
                    "limits",
                    f"{column} beyond the robot's limits",
                    f"{track.label} frame {where[0]} {self.names.of(column, dimension, track.robot)} ({value})",
                    count=len(where),
                )
        state = track.matrix(STATE)
        if state is not None:
            speed, rated = arrays.fastest(state[:, :-1], track.fps), np.array(body.joint_velocity_rad_s)
            for joint in np.flatnonzero(speed > FASTER * rated):
                name, how = (
                    self.names.of(STATE, joint, track.robot),
                    f"{speed[joint]:.3g} rad/s, rated {rated[joint]:.3g}",
                )
                self.findings.warn("limits", "a joint leaps, faster than it can move", f"{track.label} {name} ({how})")

    def _check_held(self, track: Track, state: np.ndarray) -> None:
        for dimension in np.flatnonzero(arrays.held(state) > max(4, HELD_S * track.fps)):
            if self.names.is_gripper(dimension, track.robot):
                continue
            self.findings.warn(
                "stuck",
                f"{self.names.of(STATE, dimension, track.robot)} shows one value for over {HELD_S} s while others move",
                track.label,
            )

    def _measure_lag(self, track: Track) -> float | None:
        state, action = track.values[STATE], track.values[ACTION]
        if state.shape[1:] != action.shape[1:] or not track.fps:
            return None
        size = state.shape[1]
        body = track.embodiment
        groups = {"arm": range(body.arm_dof), "gripper": range(body.arm_dof, size)} if body else {"values": range(size)}
        lags = []
        for group, columns in groups.items():
            key = (track.robot, f"{group}/{size}")
            meter = self.meters.setdefault(key, LagMeter(f"{track.robot} {group}".strip(), tuple(columns), track.fps))
            lags.append(meter.add(action, state))
        return lags[0]

    # ---- once all were seen

    def finish(self) -> list[Lag]:
        """Compare episodes with each other. Returns the lags."""
        lags = [lag for meter in self.meters.values() if (lag := meter.result()) is not None]
        compare_movement(self.facts, self.names, self.findings)
        self._finish_constant()
        compare_contents(self.facts, self.findings)
        compare_roughness(self.facts, self.findings)
        if self.meters:
            compare_lags(self.facts, lags, next(iter(self.meters.values())).fps, self.findings)
        self.findings.looked_at("finite", f"{self.n_values:,} values")
        if self.robots:
            self.findings.looked_at("limits", f"states, actions and speeds of {', '.join(sorted(self.robots))}")
        return lags

    def _finish_constant(self) -> None:
        for (robot, column), low in self.lower.items():
            constant = np.flatnonzero(self.upper[robot, column] - low <= CONSTANT)
            for one in constant if len(self.facts) > 1 else ():
                self.findings.warn(
                    "constant",
                    "never changes; there is nothing to learn, and its spread is zero",
                    " ".join(filter(None, (robot, column, self.names.of(column, one, robot)))),
                )
        if self.lower:
            self.findings.looked_at("constant", "every state and action value varies")
