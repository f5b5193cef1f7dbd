"""Work on tensors by several threads."""

import threading
import time

import pytest

from diptych.core.checkpoint import parallel
from diptych.core.checkpoint.parallel import map_ahead


def test_results_come_in_order():
    def late(number):
        time.sleep(0.002 * (number % 3 == 0))
        return number * number

    assert list(map_ahead(late, range(20), workers=3)) == [number * number for number in range(20)]


def test_no_more_items_are_begun_than_workers_ahead():
    begun = []
    results = map_ahead(lambda number: begun.append(number) or number, range(100), workers=2)
    assert next(results) == 0
    time.sleep(0.05)
    assert len(begun) <= 3
    assert list(results) == list(range(1, 100))


def test_items_are_worked_on_at_the_same_time():
    together = threading.Barrier(2, timeout=10)
    assert sorted(map_ahead(lambda _: together.wait(), range(2), workers=2)) == [0, 1]


def test_what_is_held_is_limited_by_its_size(monkeypatch):
    monkeypatch.setattr(parallel, "HELD", 10)
    held, largest = set(), []

    def work(item):
        held.add(item)
        largest.append(sum(size for _, size in held))
        return item

    items = [*enumerate((3, 3, 3, 3, 25, 4, 6, 1, 30, 30, 2))]
    for item, result in zip(items, map_ahead(work, items, workers=4, size=lambda item: item[1]), strict=True):
        time.sleep(0.005)
        assert result == item
        held.remove(item)
    assert {25, 30} <= {*largest} and all(size <= 10 for size in largest if size not in (25, 30))


def test_an_error_comes_in_place_of_its_result_and_ends_the_work():
    begun = []

    def work(number):
        begun.append(number)
        if number == 1:
            raise OSError("broken")
        return number

    results = map_ahead(work, range(100), workers=2)
    assert next(results) == 0
    with pytest.raises(OSError, match="broken"):
        list(results)
    assert len(begun) < 10
