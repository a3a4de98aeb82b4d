"""Where jobs run: in threads of this process, as many as fit into memory."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Protocol, TypeVar

from fqonnx.machine import numerics
from fqonnx.quant_job import JobResult, JobShape, QuantJob, run_job
from fqonnx.threads import single_core_threads

# What jobs may take together: as many times the largest weight in float32, but no less than this
# (and no less than one job needs).
_LARGEST = 6
_LEAST_BYTES = 1 << 28

# glibc keeps what a job has freed, for each thread: hundreds of megabytes.
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


class Task(Protocol):
    """A job that has not read its arrays yet."""

    @property
    def shape(self) -> JobShape:
        """What is known of it."""
        ...

    def job(self) -> QuantJob:
        """Read the arrays."""
        ...


AnyTask = TypeVar("AnyTask", bound=Task)


class Executor(Protocol):
    """Runs jobs. Machines of one kind give the same bytes, whichever executor it is."""

    def run(self, tasks: Sequence[AnyTask]) -> Generator[tuple[AnyTask, JobResult]]:
        """Yield tasks with their results as they are done, in any order.

        Those that were not begun when it is closed are given up.

        Raises:
            FqonnxError: A job failed; the others are given up.
        """
        ...

    def machines(self) -> list[str]:
        """Return what decides the last digits, of all kinds of machines that jobs may run on."""
        ...


@dataclass(frozen=True)
class LocalExecutor:
    """Threads that use one core each, and share the slices of large weights.

    Attributes:
        workers: How many; None takes the cores that this process may use.
    """

    workers: int | None = None

    def run(self, tasks: Sequence[AnyTask]) -> Generator[tuple[AnyTask, JobResult]]:
        """Yield tasks with their results, the largest begun first."""
        if not tasks:
            return
        workers = self.workers or len(os.sched_getaffinity(0))
        if any(task.shape.config.device != "cpu" for task in tasks):
            workers = 1
        waiting = sorted(tasks, key=lambda task: task.shape.memory_bytes(1))
        most = max(
            _LEAST_BYTES,
            waiting[-1].shape.memory_bytes(1),
            _LARGEST * max(task.shape.float_bytes for task in tasks),
        )
        running: dict[Future[JobResult], tuple[AnyTask, int, int]] = {}
        with single_core_threads(workers) as pool:
            while waiting or running:
                while waiting:
                    task = waiting[-1]
                    free = most - sum(size for _, _, size in running.values())
                    idle = workers - sum(threads for _, threads, _ in running.values())
                    threads = _threads(task.shape, free, idle)
                    if not threads:
                        break
                    future = pool.submit(_run, task, threads)
                    running[future] = task, threads, task.shape.memory_bytes(threads)
                    waiting.pop()
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield running.pop(future)[0], future.result()

    def machines(self) -> list[str]:
        """Return that of this one."""
        return [numerics()]


def _threads(shape: JobShape, free: int, idle: int) -> int:
    """Return how many threads a job may have, by the memory that is free; 0 where it must wait."""
    wanted = min(idle, shape.num_slices)
    return max((n for n in range(1, wanted + 1) if shape.memory_bytes(n) <= free), default=0)


def _run(task: Task, threads: int) -> JobResult:
    try:
        return run_job(task.job(), threads)
    finally:
        if _malloc_trim is not None:
            _malloc_trim(0)
