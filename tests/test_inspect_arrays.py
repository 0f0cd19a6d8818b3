"""The data doctor's arithmetic on arrays with planted faults."""

import numpy as np
import pyarrow as pa
import pytest

from blm.pipelines.datasets.lerobot_stats import vector_stats
from blm.pipelines.inspection import arrays
from blm.pipelines.inspection.charts import Span, span_chart
from blm.pipelines.inspection.clips import side_by_side
from blm.pipelines.inspection.lag import LagMeter
from blm.pipelines.inspection.pictures import cut_short, is_flat
from blm.pipelines.inspection.schema import type_problem
from blm.pipelines.inspection.stats import Moments
from blm.pipelines.inspection.track import numbers


def sway(n: int, shift: float = 0.0) -> np.ndarray:
    """Three joints' smooth motion, [n,3], some frames earlier or later."""
    return np.sin((np.arange(n)[:, None] - shift) * [0.31, 0.23, 0.17])


def test_gaps_and_jitter_are_told_apart() -> None:
    times = np.arange(20) / 10
    times[8:] += 0.1
    times[15:] += 0.004
    gaps, jitter = arrays.time_gaps(times.astype(np.float32), 10)
    assert (gaps.tolist(), jitter.tolist()) == ([8], [15])


def test_long_recordings_in_float32_do_not_jitter() -> None:
    assert arrays.time_gaps((np.arange(200_000) / 30).astype(np.float32), 30)[1].size == 0


def test_a_joint_is_stuck_only_where_it_usually_moves() -> None:
    spans = np.array([[0.5, 0.0, 0.3], [0.4, 0.0, 0.0], [0.6, 0.0, 0.2]])
    assert np.argwhere(arrays.stuck(spans)).tolist() == [[1, 2]]
    assert not arrays.stuck(spans[:2]).any()  # two episodes say nothing


def test_a_value_that_is_held_while_others_move_is_seen_but_not_at_its_ends() -> None:
    values = sway(40)
    values[10:20, 1] = values[10, 1] * 0.5
    values[25:35, 2] = values[:, 2].max()
    assert arrays.held(values).tolist() == [0, 9, 0]


def test_the_longest_run_is_found() -> None:
    assert arrays.longest_run(np.array([1, 1, 0, 1, 1, 1, 0], bool)) == (3, 3)
    assert arrays.longest_run(np.zeros(4, bool)) == (0, 0)


def test_digests_depend_on_values_and_shapes_alone() -> None:
    values = sway(6).astype(np.float32)
    assert arrays.digest(values) == arrays.digest(values.astype(np.float64))
    assert arrays.digest(values) != arrays.digest(values.reshape(3, 6))


@pytest.mark.parametrize("lag", [-3.0, 0.0, 1.0, 2.5, 6.0])
def test_the_lag_is_measured_between_frames(lag: float) -> None:
    meter = LagMeter("arm", (0, 1, 2), 20)
    for start in range(4):
        own = meter.add(sway(120)[start:], sway(121, lag)[start:])
        assert own == pytest.approx(lag, abs=0.3)
    found = meter.result()
    assert found is not None
    assert (found.kind, found.frames) == ("absolute", pytest.approx(lag, abs=0.3))
    assert found.seconds == pytest.approx(lag / 20, abs=0.02)


def test_actions_that_are_changes_of_position_are_recognised() -> None:
    meter = LagMeter("arm", (0, 1, 2), 20)
    state = np.cumsum(np.random.default_rng(0).normal(size=(201, 3)), axis=0)
    meter.add(np.diff(state, axis=0), state)
    found = meter.result()
    assert found is not None
    assert (found.kind, found.frames) == ("relative", pytest.approx(0.0, abs=0.1))


def test_what_does_not_follow_has_no_lag() -> None:
    rng = np.random.default_rng(0)
    meter = LagMeter("arm", (0, 1, 2), 20)
    assert meter.add(rng.normal(size=(300, 3)), rng.normal(size=(300, 3))) is None
    assert meter.add(np.zeros((50, 3)), np.zeros((50, 3))) is None
    assert meter.result() is None


def test_moments_added_up_are_the_statistics_of_everything() -> None:
    values = np.random.default_rng(0).normal(1000, 0.1, (90, 4)).astype(np.float32)
    moments = Moments()
    for part in np.split(values, 6):
        moments.add(part)
    expected = vector_stats(values)
    for name, found in moments.result().items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-6)
    assert moments.frames == expected["count"][0]


@pytest.mark.parametrize(
    ("column", "shape"),
    [
        (pa.array([1.0, None, 3.0]), (3,)),
        (pa.array([[1, 2], [3, 4], [5, 6]]), (3, 2)),
        (pa.array([[[1.0, 2.0]], [[3.0, 4.0]]]), (2, 1, 2)),
        (pa.FixedSizeListArray.from_arrays(pa.array(np.arange(6.0)), 2), (3, 2)),
        (pa.array([[1, 2], [3]]), None),
        (pa.array([[1, 2, 3], [4]]), None),  # four values in two rows, but not two each
        (pa.array(["a"]), None),
        (pa.array([1, None]), None),
    ],
)
def test_columns_of_any_depth_become_arrays(column: pa.Array, shape: tuple[int, ...] | None) -> None:
    values = numbers(pa.chunked_array([column]))
    assert (None if values is None else values.shape) == shape


@pytest.mark.parametrize(
    ("feature", "kind", "problem"),
    [
        ({"dtype": "float32", "shape": [3]}, pa.list_(pa.float32(), 3), ""),
        ({"dtype": "float32", "shape": [3]}, pa.list_(pa.float32()), ""),
        ({"dtype": "float32", "shape": [3]}, pa.list_(pa.float32(), 4), "has 4 values a frame, declared 3"),
        ({"dtype": "float32", "shape": [3]}, pa.float32(), "has 0 dimensions, declared shape [3]"),
        ({"dtype": "int64", "shape": [1]}, pa.int64(), ""),
        ({"dtype": "int64", "shape": [1]}, pa.float64(), "is stored as double, declared int64"),
        ({"dtype": "float32", "shape": [4, 2]}, pa.list_(pa.list_(pa.float32())), ""),
        ({"dtype": "image", "shape": [8, 8, 3]}, pa.struct([("bytes", pa.binary()), ("path", pa.string())]), ""),
        ({"dtype": "image", "shape": [8, 8, 3]}, pa.binary(), "is declared as image but stored as binary"),
    ],
)
def test_types_are_compared_with_what_is_declared(feature: dict[str, object], kind: pa.DataType, problem: str) -> None:
    assert type_problem(feature, kind) == problem


def test_flat_and_cut_pictures_are_recognised() -> None:
    assert is_flat(np.full((8, 8, 3), (10, 200, 30), np.uint8))
    assert not is_flat(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8))
    assert cut_short(b"") == cut_short(None) == "has no bytes"
    assert cut_short(b"\xff\xd8\xff\xe0 and no end") == "is cut short"
    assert cut_short(b"II*\x00 a format whose end is not known") == ""


@pytest.mark.parametrize(("height", "width"), [(56, 56), (97, 131), (480, 640), (224, 224), (1, 1)])
def test_cameras_stand_side_by_side_with_even_sides(height: int, width: int) -> None:
    joined = side_by_side([np.zeros((height, width, 3), np.uint8), np.zeros((2 * height, width, 3), np.uint8)])
    assert joined.shape[0] % 2 == joined.shape[1] % 2 == 0
    assert joined.shape[0] <= 336


def test_charts_escape_names() -> None:
    assert "<script>" not in span_chart([Span(name="<script>", low=0, middle=1, high=2)], label="frames")
