"""Graphs of any operators: what is compiled computes what the float model does."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, note, reject, settings

from fqonnx import CompileConfig, compile_model
from fqonnx.config import Lowering
from fqonnx.errors import ModelError
from fqonnx.session import Session
from predicted_error import too_far
from random_graphs import graphs

EXAMPLES = os.environ.get("FQONNX_FUZZ_EXAMPLES")  # else the same ones each time


@pytest.mark.parametrize("lowering", ["fused", "onnx"])
@settings(
    max_examples=int(EXAMPLES or 20),
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(case=graphs())
def test_compiled_graph_is_as_near_as_its_report_says(
    lowering: Lowering, case: tuple[onnx.ModelProto, dict[str, Any]]
) -> None:
    """See `predicted_error.too_far` for the bound."""
    model, feed = case
    note(onnx.printer.to_text(model)[:4000])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        onnx.save(model, folder / "model.onnx")
        data = folder / "data"
        data.mkdir()
        np.savez(data / "0.npz", **feed)
        try:
            Session(folder / "model.onnx", "float").run(feed)
        except ModelError:
            reject()  # ONNX Runtime drops pairs of casts that a branch of an If reads
        report = compile_model(
            folder / "model.onnx",
            folder / "out.onnx",
            CompileConfig(bits=4, lowering=lowering),
            calibration=data,
        )
        found = Session(folder / "out.onnx", "compiled").run(feed)
        onnx.checker.check_model(folder / "out.onnx", full_check=True)
    assert too_far(model, feed, found, report) is None
