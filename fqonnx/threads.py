"""Threads that use one core each."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def single_core_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Make a pool in whose threads torch uses one core.

    What torch sums depends on how many cores share the sum; so the same bytes come out however many
    threads there are. What is not begun when the block ends is given up.
    """
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "fqonnx", torch.set_num_threads, (1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # the last number that was set is that of new threads
