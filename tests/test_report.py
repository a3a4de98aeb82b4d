from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fqonnx import CompileConfig, compile_model
from fqonnx.report import CalibrationReport, Compilation, LayerReport
from support import mlp_model

KEY = "fqonnx.compilation"
COMPILATION = Compilation(
    layers=[
        LayerReport("first", "Gemm", 64, 96, "quantized", bits=2, weight_rel_error=0.3),
        LayerReport("table", "Gather", None, None, "float", "no linear layer"),
    ],
    calibration=CalibrationReport("file", 35, 5, "held-back", None, "abc"),
    versions={"fqonnx": "0.1.0"},
    options={"bits": 2, "exclude": ["head"]},
    warnings=["one", "two"],
)


def test_what_is_written_is_read() -> None:
    model = mlp_model()
    COMPILATION.write(model)
    assert Compilation.of_model(model) == COMPILATION


def test_numbers_that_json_lacks_are_left_open() -> None:
    model = mlp_model()
    layer = LayerReport("first", "Gemm", 64, 96, "quantized", weight_rel_error=math.nan)
    Compilation([layer], COMPILATION.calibration, {}, {}, []).write(model)
    json.loads(model.metadata_props[KEY], parse_constant=pytest.fail)
    found = Compilation.of_model(model)
    assert found is not None
    assert found.layers[0].weight_rel_error is None


@pytest.mark.parametrize("lowering", ["fused", "onnx", "stock"])
def test_a_compiled_file_says_how_it_was_made(lowering: Any, tmp_path: Path) -> None:
    ir.save(mlp_model(), tmp_path / "float.onnx")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).random((16, 64), np.float32))
    report = compile_model(
        tmp_path / "float.onnx",
        tmp_path / "compiled.onnx",
        CompileConfig(lowering=lowering, exclude=("second",)),
        calibration=tmp_path / "data.npz",
    )
    found = Compilation.of_model(ir.load(tmp_path / "compiled.onnx"))
    assert found is not None
    assert found.layers == report.layers
    assert found.calibration == report.calibration
    assert found.versions == report.versions
    assert found.options == json.loads(json.dumps(report.options))
    assert found.warnings == report.warnings[: len(found.warnings)]


def test_a_float_model_says_nothing() -> None:
    assert Compilation.of_model(mlp_model()) is None


@pytest.mark.parametrize(
    "said",
    [
        "",
        "{",
        "null",
        "3",
        "[]",
        "{}",
        '{"layers": 3}',
        '{"layers": [3], "calibration": {}, "versions": {}, "options": {}, "warnings": []}',
    ],
)
def test_what_cannot_be_read_says_nothing(said: str) -> None:
    model = mlp_model()
    model.metadata_props[KEY] = said
    assert Compilation.of_model(model) is None


@pytest.mark.parametrize("cut", [1, 40, 300])
def test_metadata_that_was_cut_say_nothing(cut: int) -> None:
    model = mlp_model()
    COMPILATION.write(model)
    model.metadata_props[KEY] = model.metadata_props[KEY][:-cut]
    assert Compilation.of_model(model) is None


@pytest.mark.parametrize("part", ["layer", "calibration"])
def test_another_version_with_other_fields_says_nothing(part: str) -> None:
    model = mlp_model()
    COMPILATION.write(model)
    said = json.loads(model.metadata_props[KEY])
    (said["layers"][0] if part == "layer" else said["calibration"])["new"] = 1
    model.metadata_props[KEY] = json.dumps(said)
    assert Compilation.of_model(model) is None


@pytest.mark.parametrize("part", ["layers", "calibration", "versions", "options", "warnings"])
def test_another_version_without_a_field_says_nothing(part: str) -> None:
    model = mlp_model()
    COMPILATION.write(model)
    said = json.loads(model.metadata_props[KEY])
    del said[part]
    model.metadata_props[KEY] = json.dumps(said)
    assert Compilation.of_model(model) is None
