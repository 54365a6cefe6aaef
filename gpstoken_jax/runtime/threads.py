"""Work of one process in several threads."""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], num_threads: int
) -> Iterator[Result]:
    """Maps in threads, in order, with few results waiting: images are large."""
    remaining = iter(items)
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        first = itertools.islice(remaining, 2 * num_threads)
        waiting = collections.deque(pool.submit(function, item) for item in first)
        while waiting:
            yield waiting.popleft().result()
            for item in itertools.islice(remaining, 1):
                waiting.append(pool.submit(function, item))
