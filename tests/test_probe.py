from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from fqonnx.probe import ProbeError, Request, probe
from support import mlp_model, model_from_text

FEED = {"x": np.ones((2, 64), np.float32)}


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    ir.save(mlp_model(), tmp_path / "mlp.onnx")
    return Request(str(tmp_path / "mlp.onnx"))


def test_a_model_runs_in_a_process_of_its_own(request_: Request) -> None:
    outcome = probe(request_, FEED)
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
    ],
)
def test_failures_say_how_far_it_came(
    change: dict[str, str], stage: str, said: str, request_: Request
) -> None:
    with pytest.raises(ProbeError, match=said) as caught:
        probe(replace(request_, **change), FEED)  # type: ignore[arg-type]
    assert caught.value.stage == stage


def test_inputs_that_do_not_fit_fail_at_the_run(request_: Request) -> None:
    with pytest.raises(ProbeError) as caught:
        probe(request_, {"x": np.ones((2, 3), np.float32)})
    assert caught.value.stage == "run"


def test_inputs_and_outputs_may_have_any_name(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 20]>
    g (float[n] file, float[n] _allow_pickle) => (float[n] args) {
      args = Add(file, _allow_pickle)
    }"""
    ir.save(model_from_text(text), tmp_path / "add.onnx")
    feed = {"file": np.ones(2, np.float32), "_allow_pickle": np.ones(2, np.float32)}
    outcome = probe(Request(str(tmp_path / "add.onnx")), feed)
    assert outcome.outputs["args"].tolist() == [2, 2]
