"""A cluster gives the bytes that this process does, also when a worker is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from fqonnx import CompileConfig, compile_model
from fqonnx.dask_executor import DaskExecutor
from fqonnx.errors import ConfigError, ModelError
from fqonnx.executor import LocalExecutor
from fqonnx.quant_job import JobShape, QuantJob
from support import mlp_model

dask = pytest.importorskip("dask", reason="fqonnx[dask] is not installed")
distributed = pytest.importorskip("distributed", reason="fqonnx[dask] is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of what Dask is made of


class Task:
    """A job whose weight is drawn when it is asked for."""

    def __init__(self, number: int, entry: float = 0.0) -> None:
        self.number, self.entry = number, entry
        self.shape = JobShape(64, 256, CompileConfig(), number, has_moments=False)

    def job(self) -> QuantJob:
        weight = np.random.default_rng(self.number).standard_normal((64, 256), np.float32)
        weight[0, 0] += self.entry
        return QuantJob(self.shape, f"layer {self.number}", "w", weight, {}, None, {}, False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[distributed.LocalCluster]:
    """Two processes of one thread each."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0
    ) as cluster:
        yield cluster


@pytest.fixture
def executor(cluster: distributed.LocalCluster) -> DaskExecutor:
    return DaskExecutor(cluster.scheduler_address.replace("tcp://", "dask://"))


def test_lost_worker_changes_nothing(
    cluster: distributed.LocalCluster, executor: DaskExecutor
) -> None:
    tasks = [Task(number) for number in range(12)]
    wanted = {task: np.asarray(r.weight.arrays["codes"]) for task, r in LocalExecutor(1).run(tasks)}
    with distributed.Client(cluster) as client:
        (victim, _) = client.run(os.getpid).values()
    found = {}
    for task, result in executor.run(tasks):
        if not found:
            os.kill(victim, signal.SIGKILL)
        found[task] = result.weight.arrays["codes"]
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[task], wanted[task]) for task in tasks)


def test_model_is_the_same(executor: DaskExecutor, tmp_path: Path) -> None:
    ir.save(mlp_model(), tmp_path / "mlp.onnx")
    x = np.random.default_rng(0).standard_normal((200, 64)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    found = []
    for each in (LocalExecutor(), executor):
        paths = tmp_path / "mlp.onnx", tmp_path / "out.onnx"
        compile_model(*paths, calibration=tmp_path / "data.npz", executor=each)
        found.append(paths[1].read_bytes())
    assert found[0] == found[1]


def test_errors_of_jobs_are_those_of_this_process(executor: DaskExecutor) -> None:
    with pytest.raises(ModelError, match=r"weight 'w' of 'layer 3'.*NaN"):
        list(executor.run([Task(2), Task(3, np.nan)]))


def test_kinds_of_machines_are_told(executor: DaskExecutor) -> None:
    assert executor.machines() == LocalExecutor().machines()


def test_scheduler_that_is_lost_is_said() -> None:
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, memory_limit=0
        ) as cluster,
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
    ):
        address = cluster.scheduler_address.replace("tcp://", "dask://")
        results = DaskExecutor(address).run([Task(number) for number in range(8)])
        next(results)
        cluster.close()
        with pytest.raises(ConfigError, match=r"the cluster at .* failed: .*Start its scheduler"):
            list(results)


def test_worker_without_this_package_is_said(
    executor: DaskExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> str:
        raise ModuleNotFoundError("No module named 'fqonnx'")

    monkeypatch.setattr("fqonnx.dask_executor.numerics", absent)
    with pytest.raises(ConfigError, match=r"failed: No module named 'fqonnx'.*fqonnx\[dask\]"):
        executor.machines()


@pytest.mark.parametrize(
    ("address", "message"),
    [("tcp://localhost:8786", "dask://HOST:PORT"), ("dask://127.0.0.1:9", "no scheduler at")],
)
def test_address_that_is_none(address: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(ConfigError, match=message),
    ):
        DaskExecutor(address).machines()
