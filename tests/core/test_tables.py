import numpy as np

from diptych.core.semantics import tables


def test_a_table_is_made_once_for_each_size(monkeypatch):
    monkeypatch.setattr(tables, "_tables", [])
    made = []

    @tables.cached_table
    def squares(count):
        """Of the first numbers."""
        made.append(count)
        return np.arange(count) ** 2

    assert squares(3) is squares(3) and squares(4).tolist() == [0, 1, 4, 9]
    assert made == [3, 4] and squares.__doc__ == "Of the first numbers."


def test_present_and_future_tables_are_made_known(monkeypatch):
    monkeypatch.setattr(tables, "_tables", [])
    monkeypatch.setattr(tables, "_listeners", [])
    known = []
    first = tables.cached_table(np.arange)
    tables.each_table(known.append)
    second = tables.cached_table(np.eye)
    assert known == [first, second]
