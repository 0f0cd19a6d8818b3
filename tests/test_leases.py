"""Who is given what, and what is made of deaths. No Ray: the books alone."""

import pytest

from blm.actors.leases import Leases

Item = tuple[str, int]


def leases(**counts: int) -> Leases[Item]:
    """So many items in each group."""
    items = [(group, number) for group, count in counts.items() for number in range(count)]
    return Leases(items, group=lambda item: item[0], together=2, alone=2)


def test_a_worker_stays_with_its_group_and_others_take_one_that_nobody_is_at() -> None:
    books = leases(a=4, b=4, c=4)
    assert books.take("x", 2, 2) == [("a", 0), ("a", 1)]
    assert books.take("y", 2, 2) == [("b", 0), ("b", 1)]
    books.finish("x", ("a", 0))
    assert books.take("x", 1, 2) == [("a", 2)]
    assert (books.held("x"), books.held("y"), books.waiting, books.pending) == (2, 2, 7, 11)


def test_a_worker_whose_group_is_empty_helps_where_most_is_waiting() -> None:
    books = leases(a=1, b=3, c=9)
    for worker in ("x", "y", "z"):
        assert len(books.take(worker, 1, 3)) == 1
    books.finish("x", ("a", 0))
    assert books.take("x", 1, 3) == [("c", 1)]


def test_room_is_filled_across_groups() -> None:
    assert leases(a=1, b=1, c=5).take("x", 4, 1) == [("a", 0), ("b", 0), ("c", 0), ("c", 1)]


def test_towards_the_end_nobody_takes_more_than_a_share() -> None:
    books = leases(a=10)
    assert len(books.take("x", 8, 2)) == 5
    assert len(books.take("y", 8, 2)) == 5
    assert books.take("x", 3, 2) == []


def test_everything_is_done_once() -> None:
    books = leases(a=3)
    (first,) = books.take("x", 1, 1)
    books.finish("x", first)
    with pytest.raises(KeyError):
        books.finish("x", first)
    with pytest.raises(KeyError):
        books.finish("y", ("a", 1))


def test_what_a_dead_worker_held_goes_back_in_its_place() -> None:
    books = leases(a=4)
    books.take("x", 2, 1)
    assert books.lose("x") == []
    assert books.take("y", 4, 1) == [("a", 0), ("a", 1), ("a", 2), ("a", 3)]
    assert books.lose("nobody") == []


def test_what_was_aboard_at_several_deaths_is_run_alone_and_at_the_end() -> None:
    books = leases(a=4)
    for worker in ("x", "y"):
        assert books.take(worker, 2, 1) == [("a", 0), ("a", 1)]
        books.lose(worker)
    assert books.take("z", 9, 1) == [("a", 2), ("a", 3)]
    assert books.take("w", 9, 2) == [("a", 1)]
    assert books.take("w", 9, 2) == [], "it is alone"
    assert books.take("z", 9, 2) == [], "a suspect waits until nothing else is aboard"
    assert books.take("v", 0, 2) == [], "a worker that is let go takes nothing"
    for item in (("a", 2), ("a", 3)):
        books.finish("z", item)
    assert books.take("z", 9, 2) == [("a", 0)]
    books.finish("w", ("a", 1))
    books.finish("z", ("a", 0))
    assert books.pending == 0


def test_what_kills_its_workers_alone_is_given_up_and_nothing_else_is() -> None:
    books = leases(a=3)
    deadly, given_up, done = ("a", 1), [], set()
    for worker in range(20):
        while items := books.take(worker, 2, 1):
            if deadly in items:
                given_up += books.lose(worker)
                break
            for item in items:
                books.finish(worker, item)
                done.add(item)
    assert given_up == [deadly]
    assert done == {("a", 0), ("a", 2)}
    assert books.pending == 0
