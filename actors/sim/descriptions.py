"""Where a robot's description files are, per geometry, and the official ones made to fit our specs.

`lite` is our own and ships with the package. `official` is what ManiSkill downloads (its `MS_ASSET_DIR`, or
~/.maniskill) or brings along. The official files are used as they are, but for what our specs need and they
lack; then a copy with the changes is written to a folder of the user's, once per machine:

- the Robotiq's knuckles are coupled by mimic joints, as in `lite`, where ManiSkill's agent closes the loops with
  constraints of its own;
- the xArm 7 gets that gripper: there is its arm in the mani_skill package, and the gripper on the xArm 6;
- the WidowX AI gets our tool centre frame and, for collisions, the fingers of `lite`.
"""

import hashlib
import importlib.util
import os
import uuid
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path

from blm.actors.sim.world import Geometry
from blm.model.errors import UserError
from blm.model.user_folder import user_folder

ASSETS = Path(__file__).parent / "assets"


def _wheel() -> Path:
    """Where the mani_skill package has its robots; found without importing it, which takes seconds."""
    spec = importlib.util.find_spec("mani_skill")
    if spec is None or spec.origin is None:
        raise UserError("the package mani_skill is not installed; `make setup` installs everything")
    return Path(spec.origin).parent / "assets/robots"


WHEEL = _wheel()
DOWNLOADED = Path(os.getenv("MS_ASSET_DIR", Path.home() / ".maniskill")) / "data/robots"
"""Where ManiSkill looks for what it downloads."""


def official_sources(robot: str) -> tuple[Path, ...]:
    """The official URDFs a robot is made of: the arm's first, the gripper's last where that is another file."""
    xarm6 = DOWNLOADED / "xarm6/xarm6_robotiq.urdf"
    return {
        "panda": (WHEEL / "panda/panda_v2.urdf",),
        "xarm6": (xarm6,),
        "xarm7": (WHEEL / "xarm7/xarm7.urdf", xarm6),
        "widowx_ai": (DOWNLOADED / "widowxai/wxai_base.urdf",),
    }[robot]


def has_official(robot: str) -> bool:
    """Whether this machine has all official files of a robot."""
    return all(path.is_file() for path in official_sources(robot))


@cache
def description(robot: str, geometry: Geometry) -> Path:
    """The URDF to load; an SRDF of the same name lies beside it. UserError if the files are not there."""
    if geometry == "lite":
        return ASSETS / robot / f"{robot}.urdf"
    for path in official_sources(robot):
        if not path.is_file():
            raise UserError(
                f"robot {robot}: no official description at {path}; set MS_ASSET_DIR to where ManiSkill's assets are, "
                "fetch them with `blm assets fetch`, or use geometry 'lite'"
            )
    if robot == "panda":
        return official_sources(robot)[0]
    return _adapted(robot)


@cache
def planning_description(robot: str, geometry: Geometry) -> Path:
    """The same for planners: no mimic joints.

    Pinocchio reads joints in the order of their names and refuses one whose leader comes later; `arm.ArmPlanner`
    places every finger joint itself.
    """
    source = description(robot, geometry)
    root = _read(source)
    for joint in root.findall("joint"):
        for mimic in joint.findall("mimic"):
            joint.remove(mimic)
    return _written(root, source.name, source.with_suffix(".srdf"))


def _adapted(robot: str) -> Path:
    """Writes the official description of a robot with our changes, and the SRDF of the lite one beside it."""
    sources = official_sources(robot)
    root = _read(sources[0])
    if robot == "xarm7":
        _add_gripper(root, _read(sources[1]), flange="link7")
    if robot in ("xarm6", "xarm7"):
        _simplify_gripper(root, _read(description(robot, "lite")))
    else:
        _fit_widowx_ai(root)
    return _written(root, f"{robot}.urdf", description(robot, "lite").with_suffix(".srdf"))


def _written(root: ElementTree.Element, name: str, srdf: Path) -> Path:
    """Where a description and its SRDF lie under a name; a folder per content, so that processes can share it.

    Not in a folder of each process: a worker that is killed cannot remove it.
    """
    files = {name: ElementTree.tostring(root), Path(name).with_suffix(".srdf").name: srdf.read_bytes()}
    digest = hashlib.sha256(b"".join(files.values())).hexdigest()[:16]
    folder = user_folder("blm-robots") / digest
    folder.mkdir(exist_ok=True)
    for file, content in files.items():
        if not (folder / file).is_file():
            temporary = folder / f".tmp-{uuid.uuid4().hex[:8]}-{file}"
            temporary.write_bytes(content)
            temporary.replace(folder / file)
    return folder / name


def _read(urdf: Path) -> ElementTree.Element:
    """A description whose mesh paths are absolute."""
    root = ElementTree.parse(urdf).getroot()
    for mesh in (*root.iter("mesh"), *root.iter("texture")):
        mesh.set("filename", str(urdf.parent / mesh.get("filename", "")))
    return root


def _joint(root: ElementTree.Element, name: str) -> ElementTree.Element:
    joint = root.find(f"joint[@name='{name}']")
    assert joint is not None, name
    return joint


def _add_gripper(root: ElementTree.Element, donor: ElementTree.Element, flange: str) -> None:
    """Copies the links and joints from the gripper's base on to an arm's flange."""
    children: dict[str, list[ElementTree.Element]] = {}
    for joint in donor.findall("joint"):
        children.setdefault(_end(joint, "parent"), []).append(joint)
    fixed = _joint(donor, "gripper_fix")
    parent = fixed.find("parent")
    assert parent is not None
    parent.set("link", flange)
    waiting = [fixed]
    while waiting:
        joint = waiting.pop(0)
        child = _end(joint, "child")
        link = donor.find(f"link[@name='{child}']")
        assert link is not None, child
        root.extend((link, joint))
        waiting += children.get(child, [])


def _end(joint: ElementTree.Element, which: str) -> str:
    link = joint.find(which)
    assert link is not None, joint.get("name")
    return link.get("link", "")


def _simplify_gripper(root: ElementTree.Element, lite: ElementTree.Element) -> None:
    """Couples the Robotiq's knuckles, and leaves touching to its pads and knuckles as in `lite`.

    The meshes of its bars overlap. The links that lose them for collisions, and with them the mass that was
    derived from them, get the masses of the lite ones.
    """
    leader = "left_outer_knuckle_joint"
    for side in ("left", "right"):
        for name in (f"{side}_outer_knuckle_joint", f"{side}_inner_knuckle_joint"):
            if name != leader:
                ElementTree.SubElement(_joint(root, name), "mimic", joint=leader, multiplier="1")
        for part in ("outer_knuckle", "outer_finger", "inner_knuckle", "inner_finger", "inner_finger_pad"):
            link = root.find(f"link[@name='{side}_{part}']")
            assert link is not None, part
            if part not in ("outer_knuckle", "inner_finger_pad"):
                for collision in link.findall("collision"):
                    link.remove(collision)
            inertial = lite.find(f"link[@name='{side}_{part}']/inertial")
            if inertial is not None:
                link.append(inertial)


def _fit_widowx_ai(root: ElementTree.Element) -> None:
    """Adds the tool centre, and leaves touching to fingers of boxes as in `lite`.

    As convex hulls the carriages block each other, and the hollow fingers hold a heavy thing at a few points only.
    """
    lite = _read(ASSETS / "widowx_ai/widowx_ai.urdf")
    for name in ("carriage_left", "carriage_right", "gripper_left", "gripper_right"):
        link = root.find(f"link[@name='{name}']")
        assert link is not None, name
        for collision in link.findall("collision"):
            link.remove(collision)
        link.extend(lite.findall(f"link[@name='{name}']/collision"))
    ElementTree.SubElement(root, "link", name="tool_centre")
    root.append(_joint(lite, "tool_centre_joint"))
