"""Makes demonstrations of the cells it is asked for: the planner and the simulator in a process of their own."""

import time
from typing import TYPE_CHECKING

from blm.actors.sim.demonstration import Demonstration, DemonstrationBatch, DemonstrationConfig, DemonstrationItem
from blm.actors.sim.spawn import STOCK, Spawn
from blm.actors.sim.watchdog import Watchdog
from blm.actors.sim.world import Cell, Geometry

if TYPE_CHECKING:  # the driver imports this module to start the actors; only they need the simulator
    from blm.actors.sim.env import CellEnv
    from blm.actors.sim.planner import CellPlanner

SEED_LIMIT_S = 60.0
"""A seed takes a tenth of a second; one that takes this long hangs."""


class Demonstrator:
    """Plain object; `ray.remote` turns it into an actor. Simulators are made when first needed and kept."""

    def __init__(self, geometry: Geometry, config: DemonstrationConfig, spawn: Spawn = STOCK) -> None:
        self._geometry = geometry
        self._spawn = spawn
        self._config = config
        self._cells: dict[Cell, tuple[CellEnv, CellPlanner]] = {}
        self._watchdog = Watchdog()

    def work(self, item: DemonstrationItem) -> DemonstrationBatch:
        """Demonstrates every seed of an item."""
        with self._watchdog.guard(f"building {item.cell.name}", SEED_LIMIT_S):
            env, planner = self._cell(item.cell)
        from blm.actors.sim.execute import demonstrate

        began_s = time.perf_counter()
        demonstrations: list[Demonstration] = []
        for seed in item.seeds:
            with self._watchdog.guard(f"{item.cell.name} seed {seed}", SEED_LIMIT_S):
                demonstrations.append(demonstrate(env, planner, seed, self._config))
        return DemonstrationBatch(demonstrations=tuple(demonstrations), busy_s=time.perf_counter() - began_s)

    def _cell(self, cell: Cell) -> "tuple[CellEnv, CellPlanner]":
        from blm.actors.sim.env import CellEnv
        from blm.actors.sim.planner import CellPlanner

        if cell not in self._cells:
            config = self._config
            planner = CellPlanner(cell, self._geometry, speed=config.speed, waypoint_noise_m=config.waypoint_noise_m)
            self._cells[cell] = (CellEnv(cell, geometry=self._geometry, spawn=self._spawn), planner)
        return self._cells[cell]
