"""Jobs on a cluster: the extra ``fqonnx[dask]``."""

from __future__ import annotations

import importlib
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from fqonnx.errors import ConfigError, ModelError, first_line
from fqonnx.executor import AnyTask
from fqonnx.machine import numerics
from fqonnx.quant_job import JobResult, QuantJob, run_job

_PREFIX = "dask://"


@dataclass(frozen=True)
class DaskExecutor:
    """The workers of a cluster of Dask. Jobs of one that is lost run again on another.

    Attributes:
        address: Of the scheduler, ``dask://HOST:PORT``.

    Raises:
        ConfigError: It is no such address.
    """

    address: str

    def __post_init__(self) -> None:
        if not self.address.startswith(_PREFIX):
            raise ConfigError(
                "executor", f"found {self.address!r}", f"Give it as {_PREFIX}HOST:PORT"
            )

    def machines(self) -> list[str]:
        """Return what decides the last digits, of all kinds of workers that there are."""
        with self._client() as client:
            try:
                return sorted(set(client.run(numerics).values()))
            except Exception as error:  # whatever a worker raised
                raise self._failed(error) from error

    def run(self, tasks: Sequence[AnyTask]) -> Generator[tuple[AnyTask, JobResult]]:
        """Yield tasks with their results; no more are sent than keep the workers busy."""
        if not tasks:
            return
        distributed = _imported("distributed")
        waiting = sorted(tasks, key=lambda task: task.shape.memory_bytes(1))
        running: dict[str, tuple[AnyTask, str]] = {}
        with self._client() as client:
            done = distributed.as_completed()

            def send() -> None:
                task = waiting.pop()
                job = task.job()
                future = client.submit(_run, job, pure=False)
                running[future.key] = task, job.layer
                done.add(future)

            for _ in range(min(len(waiting), 1 + sum(client.nthreads().values()))):
                send()
            for future in done:
                task, layer = running.pop(future.key)
                try:
                    result: JobResult = future.result()
                except distributed.KilledWorker as error:
                    raise ModelError(
                        f"layer {layer!r}",
                        f"workers died of it, perhaps of memory: {first_line(error)}",
                        "Give the workers more, or keep the layer float with --exclude",
                    ) from error
                if waiting:
                    send()
                yield task, result

    @contextmanager
    def _client(self) -> Iterator[Any]:
        """Connect to the cluster.

        Raises:
            ConfigError: Dask is not installed, there is no cluster with workers, or it is gone
                before the block ends.
        """
        dask, distributed = _imported("dask"), _imported("distributed")
        # Arrays travel with their job, so that it can run again when a worker is lost.
        quiet = {"distributed.admin.large-graph-warning-threshold": "1 TiB"}
        with dask.config.set(quiet):
            try:
                client = distributed.Client(f"tcp://{self.address.removeprefix(_PREFIX)}")
            except (OSError, ValueError) as error:
                raise ConfigError(
                    "executor",
                    f"no scheduler at {self.address}: {first_line(error)}",
                    "Start one with dask scheduler, and workers with dask worker",
                ) from error
            with client:
                if not client.nthreads():
                    raise ConfigError(
                        "executor",
                        f"the cluster at {self.address} has no workers",
                        "Start some with dask worker",
                    )
                try:
                    yield client
                except (CancelledError, distributed.comm.CommClosedError, TimeoutError) as error:
                    raise self._failed(error) from error

    def _failed(self, error: BaseException) -> ConfigError:
        return ConfigError(
            "executor",
            f"the cluster at {self.address} failed: {first_line(error)}",
            "Start its scheduler, and its workers with fqonnx[dask] of this version",
        )


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        hint = "Install fqonnx[dask]"
        raise ConfigError("executor", "Dask is not installed", hint) from error


def _run(job: QuantJob) -> JobResult:
    torch.set_num_threads(1)
    return run_job(job)
