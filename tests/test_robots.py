"""Our light robot descriptions against the official ones."""

import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import mani_skill
import numpy as np
import pytest
from roboplan import core

from blm.actors.sim.robots import ROBOTS, agent_uid, get_robot
from blm.model.embodiments import EMBODIMENTS
from blm.model.errors import UserError

BOX_TRIANGLES = 12
CYLINDER_TRIANGLES = 128

WHEEL = Path(mani_skill.__file__).parent / "assets/robots"


def _joints(urdf: Path) -> dict[str, tuple[float, float, float]]:
    found = {}
    for joint in ElementTree.parse(urdf).getroot().findall("joint"):
        limit = joint.find("limit")
        if joint.get("type") != "fixed" and limit is not None:
            found[joint.get("name", "")] = tuple(float(limit.get(k, "nan")) for k in ("lower", "upper", "velocity"))
    return found


def _masses(urdf: Path) -> dict[str, float]:
    links = ElementTree.parse(urdf).getroot().findall("link")
    return {
        link.get("name", ""): float(mass.get("value", "nan"))
        for link in links
        if (mass := link.find("inertial/mass")) is not None
    }


def _scene(robot: str, geometry: str) -> core.Scene:
    spec = get_robot(robot)
    urdf = spec.urdf[geometry]
    scene = core.Scene(robot, core.loadUrdfSceneDescription(str(urdf), [str(spec.packages[geometry])]))
    scene.addGroupFromChain("arm_chain", spec.base_link, spec.tcp_link)
    return scene


def _official(name: str) -> Path | None:
    """The maker's description of a robot, where this machine has it."""
    if name == "panda":
        return ROBOTS["panda"].urdf["official"]
    if name == "xarm7":
        return WHEEL / "xarm7/xarm7.urdf"
    folder = Path(os.environ.get("MS_ASSET_DIR", "~/.maniskill")).expanduser() / "data/robots"
    file = {"xarm6": "xarm6/xarm6_robotiq.urdf", "widowx_ai": "widowxai/wxai_follower.urdf"}[name]
    return folder / file if (folder / file).is_file() else None


@pytest.mark.parametrize("name", EMBODIMENTS)
def test_limits_are_those_of_the_official_description(name: str) -> None:
    urdf = _official(name)
    if urdf is None:
        pytest.skip(f"no official description of {name} on this machine (MS_ASSET_DIR)")
    joints = _joints(urdf)
    embodiment = EMBODIMENTS[name]
    for index, joint in enumerate(embodiment.joint_names):
        ours = (
            embodiment.joint_lower_rad[index],
            embodiment.joint_upper_rad[index],
            embodiment.joint_velocity_rad_s[index],
        )
        np.testing.assert_allclose(ours, joints[joint], atol=1e-6, err_msg=joint)


@pytest.mark.parametrize("name", ROBOTS)
def test_light_and_official_geometry_have_the_same_kinematics(name: str) -> None:
    spec = get_robot(name)
    light, official = _scene(name, "lite"), _scene(name, "official")
    rng = np.random.default_rng(0)
    lower, upper = np.array(spec.embodiment.joint_lower_rad), np.array(spec.embodiment.joint_upper_rad)
    for _ in range(50):
        arm_rad = rng.uniform(lower, upper)
        poses = [
            scene.forwardKinematics(scene.toFullJointPositions("arm_chain", arm_rad), spec.tcp_link, spec.base_link)
            for scene in (light, official)
        ]
        np.testing.assert_allclose(*poses, atol=1e-6)


@pytest.mark.parametrize("name", ROBOTS)
def test_light_and_official_geometry_have_the_same_limits_and_masses(name: str) -> None:
    urdf = get_robot(name).urdf
    assert _joints(urdf["lite"]) == _joints(urdf["official"])
    assert _masses(urdf["lite"]) == pytest.approx(_masses(urdf["official"]))


@pytest.mark.parametrize("name", ROBOTS)
def test_a_light_robot_has_a_few_thousand_triangles_at_most_and_boxes_to_collide_with(name: str) -> None:
    root = ElementTree.parse(get_robot(name).urdf["lite"]).getroot()
    kinds = [shape.tag for visual in root.iter("visual") for shape in visual.iter() if shape.tag in ("box", "cylinder")]
    assert kinds.count("box") * BOX_TRIANGLES + kinds.count("cylinder") * CYLINDER_TRIANGLES < 2500
    assert not list(root.iter("mesh"))
    assert {shape.tag for hit in root.iter("collision") for shape in hit.find("geometry") or ()} == {"box"}


@pytest.mark.parametrize("name", ROBOTS)
def test_collision_exceptions_name_links_that_exist(name: str) -> None:
    urdf = get_robot(name).urdf["lite"]
    links = {link.get("name") for link in ElementTree.parse(urdf).getroot().findall("link")}
    pairs = ElementTree.parse(urdf.with_suffix(".srdf")).getroot().findall("disable_collisions")
    assert pairs
    assert {pair.get(end) for pair in pairs for end in ("link1", "link2")} <= links


@pytest.mark.parametrize("name", ROBOTS)
def test_the_rest_posture_touches_nothing_and_a_folded_arm_touches_itself(name: str) -> None:
    spec = get_robot(name)
    scene = _scene(name, "lite")
    scene.importSrdf(spec.urdf["lite"].with_suffix(".srdf").read_text())
    rest = np.array(spec.embodiment.rest_rad)
    assert not scene.hasCollisions(scene.toFullJointPositions("arm_chain", rest))
    rng = np.random.default_rng(0)
    lower, upper = np.array(spec.embodiment.joint_lower_rad), np.array(spec.embodiment.joint_upper_rad)
    samples = rng.uniform(lower, upper, (500, len(lower)))
    hits = np.mean([scene.hasCollisions(scene.toFullJointPositions("arm_chain", arm_rad)) for arm_rad in samples])
    assert 0.02 < hits < 0.4


def test_registering_twice_gives_the_same_agent_and_unknown_robots_are_refused() -> None:
    assert agent_uid("panda", "lite") == agent_uid("panda", "lite") != agent_uid("panda", "official")
    with pytest.raises(UserError, match="simulated robots: panda"):
        get_robot("xarm6")
