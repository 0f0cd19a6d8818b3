"""ManiSkill's table and floor as things to touch only, and the one box that is drawn in their place.

The stock table and floor have 20,000 triangles each, made anew at every rebuild of a scene (4 ms). Drawing on a CPU
costs by the triangle, building by the call.
"""

from typing import Any

import sapien
from mani_skill.utils.scene_builder.table import TableSceneBuilder
from mani_skill.utils.structs import Actor

TABLE_TOP_HALF_M = (0.6, 0.75, 0.02)
TABLE_TOP_CENTRE_M = (-0.1, 0.0, -0.02)
TABLE_RGBA = (0.62, 0.58, 0.52, 1.0)


class LightTable(TableSceneBuilder):
    """The same bodies in the same order, with nothing to see."""

    def build(self) -> None:
        """Add table and floor to the scene as if there were no renderer."""
        self.scene.can_render = lambda: False
        try:
            super().build()
        finally:
            del self.scene.can_render


def draw_table_top(scene: Any) -> Actor:
    """Add the box to a ManiSkill scene; nothing can touch it."""
    builder = scene.create_actor_builder()
    material = sapien.render.RenderMaterial(base_color=TABLE_RGBA, roughness=0.9, specular=0.0)
    builder.add_box_visual(half_size=TABLE_TOP_HALF_M, material=material)
    builder.initial_pose = sapien.Pose(TABLE_TOP_CENTRE_M)
    return builder.build_kinematic(name="table-top")
