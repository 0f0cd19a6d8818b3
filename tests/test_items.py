"""Items through Ray Data: what one failed call leaves to the next."""

import gc
import time
from typing import Any

import pytest

from blm.model.errors import UserError
from blm.pipelines.datasets.items import map_items

pytestmark = pytest.mark.ray
ITEMS = [{"number": number} for number in range(4)]


class Refusing:
    """Refuses an item."""

    def __init__(self, number: int) -> None:
        self._refused = number

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        if item["number"] == self._refused:
            raise UserError(f"item {item['number']} is bad")
        return item


def test_after_a_call_that_failed_its_workers_are_gone_whoever_keeps_the_error(ray_cluster) -> None:
    import ray

    gc.disable()  # what is left to it may take minutes
    try:
        with pytest.raises(UserError, match="item 2 is bad") as kept:
            list(map_items(ITEMS, Refusing, arguments={"number": 2}, workers=2))
        end_s = time.monotonic() + 30
        while ray.available_resources().get("CPU", 0) < 2:
            assert time.monotonic() < end_s, "workers keep their CPUs"
            time.sleep(0.1)
        assert kept.value.__traceback__ is not None
    finally:
        gc.enable()
    assert len(list(map_items(ITEMS, Refusing, arguments={"number": -1}, workers=2))) == len(ITEMS)
