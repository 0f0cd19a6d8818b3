"""Which row stands where: shares and epochs as asked, and every place a function of the seed alone."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blm.model.errors import UserError
from blm.pipelines.mixture import MixtureEntry, Stream, row_order

SOURCES = ["simulator"] * 50 + ["language"] * 30 + ["robovqa"] * 20
ROWS = {"simulator": range(50), "language": range(50, 80), "robovqa": range(80, 100)}


def plain_order(n_rows: int, first: int, count: int, seed: int) -> list[int]:
    """What every run before there were mixtures has seen."""
    return [
        int(np.random.default_rng((seed, place // n_rows)).permutation(n_rows)[place % n_rows])
        for place in range(first, first + count)
    ]


def stream(*entries: MixtureEntry, seed: int = 0) -> Stream:
    return Stream(SOURCES, entries, seed)


def count_sources(rows: np.ndarray) -> Counter[str]:
    return Counter(SOURCES[row] for row in rows)


def test_without_entries_the_order_is_that_of_one_source():
    order = stream(seed=3).rows(70, 200)
    assert order.dtype == np.int64
    assert order.tolist() == row_order(100, 70, 200, 3).tolist() == plain_order(100, 70, 200, 3)


def test_epochs_count_visits_of_every_row():
    mix = stream(
        MixtureEntry(source="simulator", epochs=1),
        MixtureEntry(source="language", epochs=3),
        MixtureEntry(source="robovqa", epochs=0.5),
    )
    assert mix.cycle == 50 + 90 + 10
    visits = Counter(mix.rows(0, 2 * mix.cycle).tolist())
    assert {visits[row] for row in ROWS["simulator"]} == {2}
    assert {visits[row] for row in ROWS["language"]} == {6}
    assert {visits[row] for row in ROWS["robovqa"]} == {1}, "half of them in each cycle, the other half in the next"


def test_weights_are_shares_however_large_the_sources_are():
    mix = stream(MixtureEntry(source="robovqa", weight=3), MixtureEntry(source="language", weight=1))
    assert count_sources(mix.rows(0, mix.cycle)) == {"robovqa": 7500, "language": 2500}
    early = count_sources(mix.rows(0, 1000))
    assert 0.7 < early["robovqa"] / 1000 < 0.8, "sources alternate, they do not come one after the other"


def test_a_weight_beside_epochs_is_a_share_of_everything():
    mix = stream(
        MixtureEntry(source="simulator", epochs=2),
        MixtureEntry(source="robovqa", epochs=1),
        MixtureEntry(source="language", weight=0.25),
    )
    assert count_sources(mix.rows(0, mix.cycle)) == {"simulator": 100, "robovqa": 20, "language": 40}


def test_a_source_of_a_tiny_share_still_occurs():
    mix = stream(MixtureEntry(source="robovqa", weight=1e-5), MixtureEntry(source="language", weight=1))
    counts = count_sources(mix.rows(0, mix.cycle))
    assert counts["robovqa"] == 1
    assert counts["language"] == 100_000


MIXTURES = st.lists(
    st.sampled_from(sorted(ROWS)).flatmap(
        lambda name: st.floats(0.05, 4).map(lambda epochs: MixtureEntry(source=name, epochs=epochs))
    ),
    max_size=3,
    unique_by=lambda entry: entry.source,
)


@settings(deadline=None, max_examples=60)
@given(MIXTURES, st.integers(0, 5000), st.integers(1, 300), st.integers(0, 9))
def test_a_place_depends_on_nothing_but_its_number(entries, first, count, seed):
    whole = Stream(SOURCES, entries, seed).rows(first, count)
    again = Stream(SOURCES, entries[::-1], seed)
    parts = [again.rows(place, 1)[0] for place in reversed(range(first, first + count))][::-1]
    assert whole.tolist() == parts
    named = {entry.source for entry in entries} or set(ROWS)
    assert {SOURCES[row] for row in whole} <= named
    for entry in entries:  # rows of a source come in epochs, whatever stands between them
        seen = [row for row in Stream(SOURCES, entries, seed).rows(0, 400) if SOURCES[row] == entry.source]
        n = len(ROWS[entry.source])
        assert len(set(seen[:n])) == min(n, len(seen))


def test_seeds_make_orders():
    entries = (MixtureEntry(source="simulator", weight=1), MixtureEntry(source="language", weight=1))
    one, same, other = (stream(*entries, seed=seed).rows(0, 100).tolist() for seed in (1, 1, 2))
    assert one == same != other


def test_the_mix_in_effect_is_reported_in_rows_and_tokens():
    mix = stream(MixtureEntry(source="simulator", epochs=1), MixtureEntry(source="robovqa", epochs=2.5))
    lengths = np.where(np.arange(100) < 80, 10, 100)
    report = mix.report(lengths, lengths // 10)
    shares = {"share_of_conversations": 0.5, "share_of_tokens": 0.0909, "share_of_answer_tokens": 0.0909}
    assert report["simulator"] == {"rows": 50, "epochs": 1.0} | shares
    assert report["robovqa"]["epochs"] == 2.5
    assert report["language"]["share_of_conversations"] == report["language"]["epochs"] == 0, "left out, and said so"
    over_a_run = mix.report(lengths, lengths // 10, count=400)
    drawn = count_sources(mix.rows(0, 400))
    assert over_a_run["robovqa"]["epochs"] == drawn["robovqa"] / 20
    assert over_a_run["simulator"]["share_of_conversations"] == drawn["simulator"] / 400


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([{"source": "simulator"}], "give one of them, above 0"),
        ([{"source": "simulator", "epochs": 1.0, "weight": 1.0}], "give one of them"),
        ([{"source": "simulator", "weight": -1.0}], "weight is -1.0"),
        ([{"source": "simulator", "epochs": float("nan")}], "epochs is nan"),
        ([{"source": "", "epochs": 1.0}], "names no source"),
        ([{"source": "simulator", "epochs": 1.0}] * 2, "names simulator more than once"),
        ([{"source": "simulator", "epochs": 1.0}, {"source": "language", "weight": 1.0}], "add up to 1 beside"),
        (
            [{"source": "robovqa", "weight": 1e-12}, {"source": "language", "weight": 1.0}],
            "gives robovqa too small a share",
        ),
        ([{"source": "robovoa", "epochs": 1.0}], "names robovoa, but the corpus has language, robovqa, simulator"),
    ],
)
def test_mixtures_that_cannot_be_are_refused(entries, problem):
    with pytest.raises(UserError, match=problem):
        stream(*(MixtureEntry(**entry) for entry in entries))
