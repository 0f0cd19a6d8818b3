"""The four robots: our light descriptions against the official ones."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from roboplan import core

from blm.actors.sim import descriptions
from blm.actors.sim.agents import agent_uid
from blm.actors.sim.arm import ArmPlanner
from blm.actors.sim.descriptions import description, has_official, official_sources, planning_description
from blm.actors.sim.robots import ROBOTS, get_robot
from blm.model.embodiments import EMBODIMENTS
from blm.model.errors import UserError

Array = npt.NDArray[np.float64]

BOX_TRIANGLES = 12
CYLINDER_TRIANGLES = 128
CUBE = (0.04, 0.04, 0.04)


def need_official(name: str) -> None:
    if not has_official(name):
        pytest.skip(f"no official description of {name} on this machine (MS_ASSET_DIR)")


def arm_source(name: str) -> Path:
    """The file in which the maker's arm is; the xArm 7's is there even where its gripper is not."""
    path = official_sources(name)[0]
    if not path.is_file():
        pytest.skip(f"no official description of {name} on this machine (MS_ASSET_DIR)")
    return path


def joints(urdf: Path) -> dict[str, tuple[float, float, float]]:
    found = {}
    for joint in ElementTree.parse(urdf).getroot().findall("joint"):
        limit = joint.find("limit")
        if joint.get("type") != "fixed" and limit is not None:
            found[joint.get("name", "")] = tuple(float(limit.get(k, "nan")) for k in ("lower", "upper", "velocity"))
    return found


def inertials(urdf: Path) -> dict[str, list[float]]:
    """Mass, centre and inertia of every link that has them."""
    found = {}
    for link in ElementTree.parse(urdf).getroot().findall("link"):
        mass, origin, inertia = (link.find(f"inertial/{part}") for part in ("mass", "origin", "inertia"))
        if mass is not None and origin is not None and inertia is not None:
            numbers = [mass.get("value", ""), *origin.get("xyz", "").split()]
            numbers += [inertia.get(k, "") for k in ("ixx", "ixy", "ixz", "iyy", "iyz", "izz")]
            found[link.get("name", "")] = [float(number) for number in numbers]
    return found


def scene_of(name: str, urdf: Path, tip: str) -> core.Scene:
    scene = core.Scene(name, core.loadUrdfSceneDescription(str(urdf), [str(urdf.parent)]))
    scene.addGroupFromChain("arm_chain", get_robot(name).base_link, tip)
    return scene


def random_postures(name: str, count: int) -> Array:
    embodiment = EMBODIMENTS[name]
    rng = np.random.default_rng(0)
    return rng.uniform(embodiment.joint_lower_rad, embodiment.joint_upper_rad, (count, embodiment.arm_dof))


def forward(scene: core.Scene, arm_rad: Array, tip: str, base: str) -> Array:
    return np.array(scene.forwardKinematics(scene.toFullJointPositions("arm_chain", arm_rad), tip, base))


# ---- descriptions


def test_every_embodiment_is_simulated() -> None:
    assert tuple(ROBOTS) == tuple(EMBODIMENTS)


@pytest.mark.parametrize("name", EMBODIMENTS)
def test_limits_are_those_of_the_official_description(name: str) -> None:
    official = joints(arm_source(name))
    embodiment = EMBODIMENTS[name]
    for index, joint in enumerate(embodiment.joint_names):
        ours = (
            embodiment.joint_lower_rad[index],
            embodiment.joint_upper_rad[index],
            embodiment.joint_velocity_rad_s[index],
        )
        np.testing.assert_allclose(ours, official[joint], atol=1e-6, err_msg=joint)


@pytest.mark.parametrize("name", ROBOTS)
def test_light_and_official_arms_have_the_same_kinematics(name: str) -> None:
    spec = get_robot(name)
    tip = {"panda": "panda_hand_tcp", "xarm6": "eef", "xarm7": "link7", "widowx_ai": "ee_gripper_link"}[name]
    light = scene_of(name, planning_description(name, "lite"), tip)
    official = scene_of(name, arm_source(name), tip)
    for arm_rad in random_postures(name, 1000):
        ours, theirs = (forward(scene, arm_rad, tip, spec.base_link) for scene in (light, official))
        assert np.abs(ours[:3, 3] - theirs[:3, 3]).max() < 1e-6
        turn = ours[:3, :3].T @ theirs[:3, :3]
        assert np.abs(turn - turn.T).max() < 1e-6, "rad, of a small rotation"
        assert np.trace(turn) > 2.9


@pytest.mark.parametrize("name", ROBOTS)
def test_what_is_loaded_as_official_has_the_same_tool_and_gripper(name: str) -> None:
    need_official(name)
    spec = get_robot(name)
    scenes = [scene_of(name, planning_description(name, geometry), spec.tcp_link) for geometry in ("lite", "official")]
    rng = np.random.default_rng(1)
    for arm_rad in random_postures(name, 50):
        gripper = spec.finger_positions(rng.uniform())
        poses = []
        for scene in scenes:
            full = scene.toFullJointPositions("arm_chain", arm_rad)
            full[scene.getJointPositionIndices(list(spec.finger_joints))] = gripper
            for link in (spec.tcp_link, *spec.finger_links):
                poses.append(np.array(scene.forwardKinematics(full, link, spec.base_link)))
        np.testing.assert_allclose(poses[:3], poses[3:], atol=1e-6)


@pytest.mark.parametrize("name", ROBOTS)
def test_light_and_official_have_the_same_limits_masses_and_inertias(name: str) -> None:
    ours = description(name, "lite")
    arm_source(name)
    theirs: dict[str, list[float]] = {}
    limits = {}
    for source in reversed([path for path in official_sources(name) if path.is_file()]):
        limits |= joints(source)
        theirs |= inertials(source)
    gripper = set(get_robot(name).finger_joints) - set(limits)
    assert {k: v for k, v in joints(ours).items() if k not in gripper}.items() <= limits.items()
    shared = inertials(ours).keys() & theirs.keys()
    assert len(shared) > EMBODIMENTS[name].arm_dof
    for link in shared:
        np.testing.assert_allclose(inertials(ours)[link], theirs[link], rtol=1e-3, atol=1e-6, err_msg=link)


@pytest.mark.parametrize("name", ROBOTS)
def test_a_light_robot_has_few_triangles_no_meshes_and_boxes_to_collide_with(name: str) -> None:
    root = ElementTree.parse(description(name, "lite")).getroot()
    kinds = [shape.tag for visual in root.iter("visual") for shape in visual.iter() if shape.tag in ("box", "cylinder")]
    assert kinds.count("box") * BOX_TRIANGLES + kinds.count("cylinder") * CYLINDER_TRIANGLES < 1800
    assert not list(root.iter("mesh"))
    assert {shape.tag for hit in root.iter("collision") for shape in hit.find("geometry") or ()} == {"box"}


@pytest.mark.parametrize("name", ROBOTS)
def test_collision_exceptions_name_links_that_exist(name: str) -> None:
    urdf = description(name, "lite")
    links = {link.get("name") for link in ElementTree.parse(urdf).getroot().findall("link")}
    pairs = ElementTree.parse(urdf.with_suffix(".srdf")).getroot().findall("disable_collisions")
    assert pairs
    assert {pair.get(end) for pair in pairs for end in ("link1", "link2")} <= links


@pytest.mark.parametrize("name", ROBOTS)
def test_the_rest_posture_touches_nothing_and_a_folded_arm_touches_itself(name: str) -> None:
    spec = get_robot(name)
    urdf = planning_description(name, "lite")
    scene = scene_of(name, urdf, spec.tcp_link)
    scene.importSrdf(urdf.with_suffix(".srdf").read_text())
    rest = np.array(spec.embodiment.rest_rad)
    assert not scene.hasCollisions(scene.toFullJointPositions("arm_chain", rest))
    hits = np.mean(
        [scene.hasCollisions(scene.toFullJointPositions("arm_chain", q)) for q in random_postures(name, 500)]
    )
    assert 0.02 < hits < 0.4


@pytest.mark.parametrize("name", ROBOTS)
def test_the_official_robot_at_rest_touches_nothing_either(name: str) -> None:
    need_official(name)
    arm = ArmPlanner(get_robot(name), "official", CUBE)
    for gripper in (0.0, 1.0):
        arm.set_fingers(gripper)
        assert arm.collision(np.array(EMBODIMENTS[name].rest_rad)) is None


def test_a_robot_without_its_official_files_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(descriptions, "DOWNLOADED", tmp_path)
    for name in ("xarm6", "xarm7", "widowx_ai"):
        assert not has_official(name)
        with pytest.raises(UserError, match=r"MS_ASSET_DIR.*blm assets fetch.*'lite'"):
            description.__wrapped__(name, "official")


def test_registering_twice_gives_the_same_agent_and_unknown_robots_are_refused() -> None:
    assert agent_uid("panda", "lite") == agent_uid("panda", "lite") != agent_uid("panda", "official")
    with pytest.raises(UserError, match="simulated robots: panda, xarm6"):
        get_robot("xarm5")


@pytest.mark.parametrize("name", ROBOTS)
def test_gripper_positions_openings_and_commands_agree(name: str) -> None:
    spec = get_robot(name)
    for gripper in (0.0, 0.3, 1.0):
        positions = spec.finger_positions(gripper)
        assert len(positions) == len(spec.finger_joints)
        assert spec.gripper_opening(positions) == pytest.approx(gripper, abs=1e-9)
    leader = spec.finger_joints.index(spec.driven_joints[0])
    assert spec.finger_command(1.0) == spec.finger_positions(1.0)[leader]
    beyond = spec.finger_command(0.0) - spec.finger_positions(0.0)[leader]
    assert beyond * (spec.finger_closed - spec.finger_open) > 0.0, "closing presses"
