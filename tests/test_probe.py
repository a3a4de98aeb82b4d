from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from fqonnx.probe import ProbeError, Request, probe
from support import mlp_model


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    ir.save(mlp_model(), tmp_path / "mlp.onnx")
    np.savez(tmp_path / "x.npz", x=np.ones((2, 64), np.float32))
    return Request(str(tmp_path / "mlp.onnx"), str(tmp_path / "x.npz"))


def test_a_model_runs_in_a_process_of_its_own(request_: Request) -> None:
    outcome = probe(request_)
    assert outcome.providers == ["CPUExecutionProvider"]
    assert outcome.outputs["y"].shape == (2, 48)
    assert outcome.kernels["MatMul CPUExecutionProvider"] == 1
    assert outcome.kernels["FusedGemm CPUExecutionProvider"] == 2
    assert min(outcome.load_s, outcome.first_run_s, outcome.run_s) > 0
    assert 0 < outcome.private_bytes <= outcome.peak_bytes < 1 << 30
    assert outcome.mapped_bytes >= 0


@pytest.mark.parametrize(
    ("change", "stage", "said"),
    [
        ({"library": "/no/library.so"}, "register", "library.so"),
        ({"model": "/no/model.onnx"}, "load", "model.onnx"),
        ({"inputs": "other.npz"}, "load", "other.npz"),
    ],
)
def test_failures_say_how_far_it_came(
    change: dict[str, str], stage: str, said: str, request_: Request
) -> None:
    with pytest.raises(ProbeError, match=said) as caught:
        probe(Request(**({"model": request_.model, "inputs": request_.inputs} | change)))
    assert caught.value.stage == stage


def test_inputs_that_do_not_fit_fail_at_the_run(request_: Request) -> None:
    np.savez(request_.inputs, x=np.ones((2, 3), np.float32))
    with pytest.raises(ProbeError) as caught:
        probe(request_)
    assert caught.value.stage == "run"
