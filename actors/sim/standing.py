"""Standing a lying peg on its end: grip it off its middle, turn it about the closing direction, set it down, let go.

The peg's middle stays over the same spot of the table, so where it will stand can be told from where it lies. Pads
that close across the peg grip it at any pitch of the hand; in the end the hand's pitch is a quarter turn more than in
the beginning. No arm has that much range low over the table and far out, so alternatives share the turn out
differently, grip the peg at several places, and turn it aside while it rises.
"""

import itertools
from dataclasses import replace

import numpy as np

from blm.actors.sim.arm import transform
from blm.actors.sim.primitives import (
    Array,
    Grip,
    Primitives,
    Situation,
    Stroke,
    backed_off,
    pitched,
    pointing_down,
    rise,
)

PEG_HALF_LENGTH_M, PEG_HALF_WIDTH_M = 0.12, 0.025
GRIPS = ((0.02, -0.25), (0.04, 0.0), (0.0, -0.25), (-0.04, -0.25), (-0.04, -0.5), (0.08, 0.0), (-0.08, -0.5))
GRIP_SCALE_M, PITCH_SCALE_RAD = 0.08, 0.5
"""Where the peg is gripped, in m from its middle towards the end that goes up, and the pitch of the hand there, in
rad; positive: the fingers point towards that end. Nearer to the upper end than the middle is, a peg that slips hangs
upright; far from the middle it slips sooner.
"""
TWISTS_RAD = (1.0, -1.0, 0.6, -0.6, 0.0)
"""By how much the peg is turned about the vertical on the way up. An arm that cannot point its hand straight ahead, low
over the table, can point it aside. The first goes round by the front of the robot."""
GRIP_ABOVE_M, TILTED_ABOVE_M = 0.005, 0.012
"""The palm needs room above so thick an object: height of a grip over the peg's middle, for an upright hand and what
a pitch of 0.5 adds.
"""
APPROACH_M, RETREAT_M, SAFE_HEIGHT_M = 0.06, 0.08, 0.12
CLEAR_M, DROP_M = 0.015, 0.002
"""Height of the lower end over the table during the turn and in the end. An end that scrapes turns the peg in the grip.
"""
TURN_KEYS, LAY_KEYS = 9, 5
UP = np.array([0.0, 0.0, 1.0])
UPRIGHT_COSINE, STANDS_WITHIN_M = 0.998, 0.004
BESIDE_M = 0.07
"""A hand that near to a standing peg still has its fingers around it."""
SETTLES_COSINE, LIES_SINE = 0.982, 0.1
"""A peg of these measures tips over from a lean of 0.2 rad on."""


def stand_peg(now: Situation) -> tuple[Primitives, ...]:
    """Alternatives, or just letting go if the peg stands."""
    axis = now.object_rotation[:, 0]
    if abs(axis[2]) > UPRIGHT_COSINE and abs(now.object_m[2] - PEG_HALF_LENGTH_M) < STANDS_WITHIN_M:
        beside = np.linalg.norm((now.tool[:3, 3] - now.object_m)[:2]) < BESIDE_M
        stay = (Grip(gripper=1.0, steps=1),)
        return (_let_go(now, now.tool), stay) if now.holding or beside else (stay,)
    outwards = (now.object_m - now.base_m) * [1.0, 1.0, 0.0]
    reference = axis[2] if abs(axis[2]) > 0.2 else axis @ outwards
    up = axis if reference >= 0.0 else -axis
    if now.holding:
        at_once = tuple(_turn(now, up, now.tool, twist) for twist in (0.0, *_twists(now)[:-1]))
        return (*at_once, *_afresh(now, up), _let_go(now, now.tool))
    plans: list[Primitives] = []
    along = up * [1.0, 1.0, 0.0] / np.linalg.norm(up[:2])
    yaw = float(np.arctan2(along[1], along[0]))
    for twist, (grip_m, pitch) in _ways(now):
        above_m = GRIP_ABOVE_M + TILTED_ABOVE_M * (pitch / 0.5) ** 2
        point = now.object_m + grip_m * up + above_m * UP
        grasp = pitched(pointing_down(point, yaw), pitch)
        reach = Stroke(
            name="reach",
            poses=(*rise(now, grasp, SAFE_HEIGHT_M), backed_off(grasp, APPROACH_M), grasp),
            gripper=1.0,
            avoid_object=False,
            detour=True,
            settle_steps=1,
        )
        plans.append((reach, Grip(gripper=0.0, steps=now.grip_steps, holds=True), *_turn(now, up, grasp, twist)))
    # A peg that leans on nothing but an open hand: left alone it comes to stand, or else to lie.
    if up[2] > SETTLES_COSINE:
        return (_let_go(now, now.tool), *plans)
    return (*plans, _let_go(now, now.tool)) if up[2] > LIES_SINE else tuple(plans)


def _afresh(now: Situation, up: Array) -> tuple[Primitives, ...]:
    """For a grip from which the peg cannot be stood: lay it down where it is and begin again."""
    elevation, about = _elevation(up)
    poses = []
    for share in np.linspace(0.0, 1.0, LAY_KEYS)[1:]:
        raised = (1.0 - share) * elevation
        height_m = max(_needed_m(abs(raised)) + DROP_M, (1.0 - share) * now.object_m[2])
        lowered = _rotation(about, raised - elevation) @ now.object_rotation
        poses.append(transform([*now.object_m[:2], height_m], lowered))
    grasp_in_peg = _in_peg(now, now.tool)
    tools = tuple(pose @ grasp_in_peg for pose in poses)
    lay = Stroke(name="lay", poses=tools, gripper=0.0, avoid_object=False, detour=False, settle_steps=2)
    let_go = _let_go(now, tools[-1])
    lying = replace(
        now,
        tool=backed_off(tools[-1], RETREAT_M),
        gripper=1.0,
        object_m=np.array([*now.object_m[:2], PEG_HALF_WIDTH_M]),
        object_rotation=poses[-1][:3, :3],
        holding=False,
    )
    return tuple((lay, *let_go, *plan) for plan in stand_peg(lying))


def _ways(now: Situation) -> list[tuple[float, tuple[float, float]]]:
    """Twists and grips, the nearest to the robot's own way first."""
    own_m, own_pitch, own_twist = now.stand_first

    def otherness(way: tuple[float, tuple[float, float]]) -> float:
        twist, (grip_m, pitch) = way
        own = abs(grip_m - own_m) / GRIP_SCALE_M + abs(pitch - own_pitch) / PITCH_SCALE_RAD
        return own + abs(twist - own_twist)

    side = _twists(now)[0]
    return [(side * twist, grip) for twist, grip in sorted(itertools.product(TWISTS_RAD, GRIPS), key=otherness)]


def _twists(now: Situation) -> tuple[float, ...]:
    """The turns to try, first those that lead the hand round by the front of the robot."""
    side = 1.0 if (now.object_m - now.base_m)[1] <= 0.0 else -1.0
    return tuple(side * twist for twist in TWISTS_RAD)


def _turn(now: Situation, up: Array, grasp: Array, twist_rad: float) -> Primitives:
    """From a grip on the peg to the peg on its end, turned about the vertical: the tool goes where the peg takes it."""
    elevation, about = _elevation(up)
    grasp_in_peg = _in_peg(now, grasp)
    upright = _rotation(about, np.pi / 2 - elevation) @ now.object_rotation
    # ManiSkill reads the peg's lean from Euler angles that lose it where the peg's z points along the world's x.
    if abs((_rotation(UP, twist_rad) @ upright)[0, 2]) > 0.95:
        twist_rad -= np.copysign(0.6, twist_rad)
    poses = []
    for share in np.linspace(0.0, 1.0, TURN_KEYS)[1:]:
        angle = share * (np.pi / 2 - elevation)
        raised = elevation + angle
        height_m = max(_needed_m(raised) + CLEAR_M * min(1.0, 3.0 * share), (1.0 - share) * now.object_m[2])
        turned = _rotation(UP, share * twist_rad) @ _rotation(about, angle) @ now.object_rotation
        poses.append(transform([*now.object_m[:2], height_m], turned) @ grasp_in_peg)
    poses.append(poses[-1].copy())
    poses[-1][2, 3] -= CLEAR_M - DROP_M
    rotate = Stroke(
        name="rotate",
        poses=tuple(poses),
        gripper=0.0,
        avoid_object=False,
        detour=False,
        settle_steps=4,
        pace=now.turn_pace,
        tracking="tool",
        holds=True,
    )
    return (rotate, *_let_go(now, poses[-1]))


def _elevation(up: Array) -> tuple[float, Array]:
    """How far the upper end points up, rad, and the horizontal unit vector about which it rises, [3]."""
    horizontal = np.array([up[1], -up[0], 0.0])
    elevation = float(np.arcsin(np.clip(up[2], -1.0, 1.0)))
    return elevation, horizontal / max(float(np.linalg.norm(horizontal)), 1e-9)


def _needed_m(elevation_rad: float) -> float:
    """Height of the peg's middle at which its lower end touches the table."""
    return float(PEG_HALF_LENGTH_M * np.sin(elevation_rad) + PEG_HALF_WIDTH_M * np.cos(elevation_rad))


def _in_peg(now: Situation, tool: Array) -> Array:
    """A tool pose as seen from the peg, [4,4]."""
    return np.linalg.inv(transform(now.object_m, now.object_rotation)) @ tool


def _let_go(now: Situation, tool: Array) -> Primitives:
    poses = (backed_off(tool, RETREAT_M),)
    return (
        Grip(gripper=1.0, steps=now.grip_steps),
        Stroke(name="retreat", poses=poses, gripper=1.0, avoid_object=False, detour=False, settle_steps=1),
    )


def _rotation(axis: Array, angle_rad: float) -> Array:
    """Rotation [3,3] about a unit vector."""
    x, y, z = axis
    skew = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle_rad) * skew + (1.0 - np.cos(angle_rad)) * skew @ skew
