"""The toy benchmark of `vla_eval_toy.py` with pictures, for a policy that looks. Loaded by the harness by its name."""

from typing import Any

import numpy as np
from vla_eval_toy import Toy

PX = 112


class Looking(Toy):
    """Grey pictures of every camera that the server asks for."""

    def make_obs(self, raw_obs: Any, task: dict[str, Any]) -> dict[str, Any]:
        grey = np.full((PX, PX, 3), 10 * len(self.actions), np.uint8)
        return {**super().make_obs(raw_obs, task), "images": dict.fromkeys(self.cameras, grey)}
