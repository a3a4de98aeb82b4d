"""Jobs: what they give does not depend on where and how they run."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

import fqonnx.quant.weight
from fqonnx.config import METHODS, CompileConfig
from fqonnx.errors import ModelError
from fqonnx.executor import LocalExecutor, _threads
from fqonnx.quant import Moments
from fqonnx.quant_job import JobResult, JobShape, QuantJob, run_job

EVERY_METHOD = pytest.mark.parametrize("method", METHODS)


def job(
    method: str = "auto", dim_out: int = 200, entry: float = 0.0, **options: object
) -> QuantJob:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((48, dim_out), np.float32)
    weight[0, 0] += entry
    x = torch.from_numpy(rng.standard_normal((300, 48))) + 0.5
    moments = Moments(x.T @ x / 300, x.mean(0), 300, 0.1, trust_mean=True)
    config = CompileConfig(method=method, **options)
    shape = JobShape(48, dim_out, config, 0, has_moments=True)
    biases = {"layer": ("b", rng.standard_normal(dim_out, np.float32))}
    return QuantJob(shape, "layer", "w", weight, biases, moments, {"layer": 300}, True)


def same(a: JobResult, b: JobResult) -> bool:
    assert a.weight is not None
    assert b.weight is not None
    return all(
        np.array_equal(array, b.weight.arrays[name]) for name, array in a.weight.arrays.items()
    )


@EVERY_METHOD
def test_a_job_can_travel(method: str) -> None:
    here = run_job(job(method))
    there = pickle.loads(pickle.dumps(run_job(pickle.loads(pickle.dumps(job(method))))))
    assert same(here, there)
    assert there.weight.errors == here.weight.errors
    assert there.rows == {"layer": 300}
    assert np.array_equal(there.biases["layer"].dequantize(), here.biases["layer"].dequantize())


def test_an_error_can_travel() -> None:
    with pytest.raises(ModelError) as info:
        run_job(job(entry=np.inf))
    error = pickle.loads(pickle.dumps(info.value))
    assert type(error) is ModelError
    assert str(error) == str(info.value)
    assert (error.where, error.hint) == (info.value.where, info.value.hint)


@EVERY_METHOD
@pytest.mark.parametrize("sides", ["in", "both"])
def test_slices_are_the_whole(method: str, sides: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if METHODS[method].frame == "identity" and sides == "both":
        pytest.skip("a method without frames")
    whole = run_job(job(method, sides=sides))
    monkeypatch.setattr(fqonnx.quant.weight, "_SLICE_COEFFS", 1)
    cut = job(method, sides=sides)
    assert cut.shape.num_slices == (4 if sides == "in" else 1)
    found = {threads: run_job(cut, threads) for threads in (1, 3)}
    assert same(found[1], found[3])
    assert found[1].weight.errors == found[3].weight.errors
    # Sums over fewer columns may round otherwise, and a coefficient with them.
    differing = found[1].weight.dequantize() != whole.weight.dequantize()
    assert differing.any(0).float().mean() < 0.1
    for name in ("weight_rel_error", "output_rel_error", "proxy_loss"):
        assert getattr(found[1].weight.errors, name) == pytest.approx(
            getattr(whole.weight.errors, name), rel=1e-3
        )
    if whole.weight.guarantee is not None:
        bound = whole.weight.guarantee.error_bound
        assert found[1].weight.guarantee.error_bound == pytest.approx(bound)
    if whole.weight.bias_shift is not None:
        np.testing.assert_allclose(found[1].weight.bias_shift, whole.weight.bias_shift, atol=0.05)


def test_threads_of_a_job_fit_into_memory() -> None:
    shape = JobShape(4096, 32_000, CompileConfig(), 0, has_moments=True)
    one, two = shape.memory_bytes(1), shape.memory_bytes(2)
    assert shape.float_bytes < one < two < 4 << 30
    assert _threads(shape, one - 1, 8) == 0
    assert _threads(shape, one, 8) == 1
    assert _threads(shape, two, 8) == 2
    assert _threads(shape, 1 << 40, 8) == 8
    assert _threads(shape, 1 << 40, 100) == shape.num_slices


def test_torch_has_its_threads_back() -> None:
    before = torch.get_num_threads()

    class Task:
        shape = job().shape

        def job(self) -> QuantJob:
            assert torch.get_num_threads() == 1
            return job()

    (found,) = LocalExecutor(2).run([Task()])
    assert same(found[1], run_job(job()))
    assert torch.get_num_threads() == before


def test_jobs_wait_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fqonnx.executor._LEAST_BYTES", 0)
    monkeypatch.setattr("fqonnx.executor._LARGEST", 0)
    running: list[object] = []

    class Task:
        def __init__(self, dim_out: int) -> None:
            self.shape = job(dim_out=dim_out).shape

        def job(self) -> QuantJob:
            running.append(self)
            assert len(running) == 1
            return job(dim_out=self.shape.dim_out)

    sizes = []
    for task, _ in LocalExecutor(4).run([Task(100), Task(100), Task(101)]):
        sizes.append(task.shape.dim_out)
        running.remove(task)
    assert sizes == [101, 100, 100]
