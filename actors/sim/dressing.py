"""Puts a look on a scene: its light and its table. Cameras and background are `env.CellEnv`'s own business."""

from dataclasses import dataclass, field

import sapien

from blm.actors.sim.look import Look
from blm.actors.sim.scenes import CellScene

TEXTURE_FORMAT = "R8G8B8A8Unorm"


@dataclass(slots=True)
class Wardrobe:
    """One built scene's light and table, and how the table was. A rebuilt scene needs a new one."""

    scene: CellScene
    """The scene, built to be rendered."""
    _own: list[tuple[sapien.render.RenderMaterial, sapien.render.RenderTexture2D | None]] = field(default_factory=list)

    def put_on(self, look: Look) -> None:
        """Light and table as the look has them; what an earlier look changed is undone."""
        scene = self.scene.scene.sub_scenes[0]
        scene.render_system.set_ambient_light(look.ambient_rgb)
        direction = sapien.math.shortest_rotation([1.0, 0.0, 0.0], look.light_direction)
        for light in scene.render_system.lights:
            light.set_color(look.light_rgb)
            light.entity.set_pose(sapien.Pose(q=direction))
        if look.table is None:
            for material, texture in self._own:
                _cover(material, texture)
            return
        self._own = self._own or [(one, one.get_base_color_texture()) for one in self._table_materials()]
        table = sapien.render.RenderTexture2D(look.table, TEXTURE_FORMAT, 1, "linear", "repeat", True)
        for material, _ in self._own:
            _cover(material, table)

    def _table_materials(self) -> list[sapien.render.RenderMaterial]:
        """Of whatever is drawn as the table: our box, or ManiSkill's model of one."""
        actors = [self.scene.scene.actors.get("table-top"), self.scene.table_scene.table]
        materials = []
        for actor in actors:
            for entity in actor._objs if actor is not None else ():
                body = entity.find_component_by_type(sapien.render.RenderBodyComponent)
                for shape in body.render_shapes if body is not None else ():
                    materials += [part.material for part in shape.parts]
        return materials


def _cover(material: sapien.render.RenderMaterial, texture: sapien.render.RenderTexture2D | None) -> None:
    material.set_base_color_texture(texture)
    material.set_base_color(material.base_color)  # a texture that comes or goes is noticed only with a new colour
