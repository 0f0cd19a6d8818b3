"""What a simulator with cameras has beyond one without: the cameras in the scene, the look, and taking pictures."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sapien
from mani_skill.utils import sapien_utils
from PIL import Image

from blm.actors.sim.cameras import CAMERAS, FAR_M, MOUNTED_NEAR_M, NEAR_M, CameraSpec, check_camera
from blm.actors.sim.dressing import Wardrobe
from blm.actors.sim.look import PLAIN, Look
from blm.actors.sim.overlay import LINE_PX, draw_ring
from blm.actors.sim.scenes import CellScene
from blm.model.embodiments import suggest
from blm.model.errors import UserError

Picture = npt.NDArray[np.uint8]

SHADER = Path(__file__).parent / "assets/shader"


class Viewer:
    """The cameras of one built scene. A rebuilt scene needs a new one."""

    def __init__(self, scene: CellScene, cameras: Sequence[CameraSpec], image_px: int, look: Look = PLAIN) -> None:
        """cameras: none is fine, there are no pictures then."""
        self._scene = scene
        self._specs = tuple(cameras)
        self._cameras = {spec.name: _add_camera(scene, spec, image_px) for spec in cameras}
        self._wardrobe = Wardrobe(scene)
        self.look = PLAIN
        if look is not PLAIN:
            self.set_look(look)

    def set_look(self, look: Look) -> None:
        """Draws all further pictures with this look. ValueError without cameras."""
        if not self._specs:
            raise ValueError("a simulator without cameras has no looks")
        if look is self.look:
            return
        self.look = look
        self._wardrobe.put_on(look)
        for spec in self._specs:
            camera, pose = self._cameras[spec.name], _pose(look.cameras.get(spec.name, spec))
            if spec.mounted:
                camera.set_local_pose(pose)
            else:
                camera.entity.set_pose(pose)

    def pictures(self) -> dict[str, Picture]:
        """The scene as it is now from every camera, uint8 [H,W,3] each."""
        if self._cameras:
            self._scene.place_markers()
            self._scene.scene.sub_scenes[0].update_render()
        for camera in self._cameras.values():  # each is drawn while the next is being prepared
            camera.take_picture()
        return {name: self._finish(camera) for name, camera in self._cameras.items()}

    def _finish(self, camera: sapien.render.RenderCameraComponent) -> Picture:
        """What a camera has taken, RGBA [2H,2W,4] -> RGB [H,W,3].

        A background where nothing was drawn, the ring round a goal that things may hide, then the mean of 2 by 2
        pixels, which keeps what a small object's edge says about its place between two pixels.
        """
        taken = camera.get_picture("Color").view("<u4")[..., 0]
        grey = np.uint32(0xFF000000 + 0x010101 * self.look.background_grey)
        picture = np.where(taken < 0x01000000, grey, taken)  # alpha, the highest byte, is 0 where nothing was drawn
        ring = self._scene.goal_ring()
        if ring is not None:
            pixels = picture.view(np.uint8).reshape(*picture.shape, 4)
            draw_ring(pixels, camera.get_extrinsic_matrix(), camera.get_intrinsic_matrix(), *ring, line_px=2 * LINE_PX)
        half = Image.frombuffer("RGBX", picture.shape[::-1], picture, "raw", "RGBX", 0, 1).reduce(2)
        return np.ascontiguousarray(np.asarray(half)[..., :3])


def known_camera(camera: str | CameraSpec) -> CameraSpec:
    """A camera by its name, or one's own. UserError for an unknown name or one that would see nothing."""
    if isinstance(camera, str):
        if camera not in CAMERAS:
            raise UserError(f"unknown camera {camera!r}; {suggest(camera, CAMERAS)}")
        camera = CAMERAS[camera]
    check_camera(camera)
    return camera


def _add_camera(scene: CellScene, spec: CameraSpec, image_px: int) -> sapien.render.RenderCameraComponent:
    sapien.render.set_camera_shader_dir(str(SHADER))
    sapien.render.set_picture_format("Color", "r8g8b8a8unorm")
    side_px = 2 * image_px  # see Viewer._finish
    built, pose = scene.scene.sub_scenes[0], _pose(spec)
    if spec.mounted:
        hand = scene.agent.tcp._objs[0].entity
        return built.add_mounted_camera(
            spec.name, hand, pose, side_px, side_px, spec.fov_rad, near=MOUNTED_NEAR_M, far=FAR_M
        )
    camera = built.add_camera(spec.name, side_px, side_px, spec.fov_rad, near=NEAR_M, far=FAR_M)
    camera.entity.set_pose(pose)
    return camera


@lru_cache(maxsize=64)
def _pose(spec: CameraSpec) -> sapien.Pose:
    return sapien_utils.look_at(spec.eye_m, spec.target_m, spec.up).sp
