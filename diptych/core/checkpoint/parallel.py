"""Work on tensors by several threads: NumPy copies, converts and hashes without holding Python's lock."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WORKERS = min(4, os.cpu_count() or 1)
"""The number of threads; memory is as fast as it gets with four."""
HELD = 16 << 20
"""The bytes that results may take, unless a single one is larger."""


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int = WORKERS,
    size: Callable[[Item], int] = lambda item: 0,
) -> Iterator[Result]:
    """Yields the results of a function in the order of the items, computed at most `workers` items ahead.

    An exception of the function is raised where its result would be yielded; the items after it are not begun.

    Args:
        function: is called by threads.
        items: its arguments.
        workers: the number of threads.
        size: the bytes of an item's result. Results that are computed ahead take no more than `HELD`, so that an item
            that takes more by itself is alone in memory, if the caller drops each result before it asks for the next.
    """
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[tuple[Future[Result], int]] = deque()
        held = 0
        try:
            for item in items:
                while ahead and (len(ahead) > workers or held + size(item) > HELD):
                    yield ahead[0][0].result()
                    held -= ahead.popleft()[1]
                ahead.append((pool.submit(function, item), size(item)))
                held += size(item)
            while ahead:
                yield ahead.popleft()[0].result()
        finally:
            for future, _ in ahead:
                future.cancel()
