import pytest

from diptych.core.checkpoint.loading import ahead


def test_results_come_in_order_and_no_more_than_two_are_made_ahead():
    begun = []

    def square(number):
        begun.append(number)
        return number * number

    results = ahead(square, range(100))
    for number in range(100):
        assert next(results) == number * number
        assert len(begun) <= number + 3
    assert next(results, None) is None


def test_a_failure_reaches_the_caller_in_its_turn():
    results = ahead(lambda number: 10 // number, [5, 2, 0, 1])
    assert [next(results), next(results)] == [2, 5]
    with pytest.raises(ZeroDivisionError):
        next(results)
