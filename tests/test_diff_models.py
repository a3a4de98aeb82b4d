from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fqonnx.diff import Threshold
from fqonnx.diff_models import diff_models
from fqonnx.diff_report import DiffReport
from fqonnx.errors import ModelError
from fqonnx.model_pair import ModelPair
from layer_models import LAYERS, layer_feed, layer_model, run
from support import mlp_model, model_pair

UNKNOWN = (
    "layers are not compared: none of them is known from the float model, or to this version of "
    "fqonnx"
)


def loaded(folder: Path) -> ModelPair:
    return ModelPair.load(*(folder / name for name in ("float.onnx", "compiled.onnx", "data.npz")))


def says_nothing_of_layers(report: DiffReport) -> bool:
    return (report.split, report.layers, report.advice, report.slow) == (None, [], [], [])


@pytest.mark.parametrize("name", LAYERS)
def test_a_whole_report(name: str, tmp_path: Path) -> None:
    pair = model_pair(layer_model(name), tmp_path, layer_feed(name))
    report = diff_models(pair)
    assert report.warnings == []
    assert [layer.output for layer in report.layers] == [output for _, output in LAYERS[name]]
    assert report.compilation is not None
    assert {layer.name for layer in report.layers} == {
        layer.name for layer in report.compilation.layers if layer.status == "quantized"
    }
    assert report.split is not None
    for own, algorithm, kernel in zip(
        report.outputs, report.split.algorithm, report.split.kernel, strict=True
    ):
        assert algorithm.name == kernel.name == own.name
        assert algorithm.sqnr_db == pytest.approx(own.sqnr_db, abs=0.5)
        assert kernel.sqnr_db > own.sqnr_db + 15
    worst = max(report.layers, key=lambda layer: layer.model_rel_error)
    assert report.advice[0].layer == worst.name
    assert re.search(r"\w.*, \d+ logical", report.machine)
    json.loads(report.to_json(), parse_constant=pytest.fail)


def test_exact_products_have_no_error_of_a_kernel(tmp_path: Path) -> None:
    report = diff_models(model_pair(mlp_model(), tmp_path, layer_feed("mlp"), lowering="onnx"))
    assert report.split is not None
    assert report.split.algorithm == report.outputs
    assert report.split.kernel[0].max_abs_diff == 0.0


def test_the_last_layer_has_the_error_of_the_output(tmp_path: Path) -> None:
    feed = layer_feed("mlp")
    pair = model_pair(mlp_model(), tmp_path, feed)
    report = diff_models(pair)
    sqnr = -20 * np.log10(report.layers[-1].accumulated_rel_error)
    assert report.outputs[0].sqnr_db == pytest.approx(sqnr, abs=0.01)
    wanted, found = (run(ir.load(p), feed, "y")[0] for p in (pair.float_path, pair.compiled_path))
    ratio = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    assert report.layers[-1].accumulated_rel_error == pytest.approx(ratio, rel=1e-4)


def test_stock_operators_have_no_layers(tmp_path: Path) -> None:
    report = diff_models(model_pair(mlp_model(), tmp_path, layer_feed("mlp"), lowering="stock"))
    assert says_nothing_of_layers(report)
    assert report.warnings == []
    assert report.compilation is not None
    assert 0.5 < report.outputs[0].cosine < 0.99


def test_the_float_model_against_itself(tmp_path: Path) -> None:
    pair = model_pair(mlp_model(), tmp_path, layer_feed("mlp"))
    report = diff_models(ModelPair.load(pair.float_path, pair.float_path, tmp_path / "data.npz"))
    assert says_nothing_of_layers(report)
    assert (report.warnings, report.compilation) == ([], None)
    assert report.outputs[0].max_abs_diff == 0.0


def test_another_float_model_of_the_same_names(tmp_path: Path) -> None:
    """Its layers are compared with the weights that this one has."""
    pair = model_pair(mlp_model(), tmp_path, layer_feed("mlp"))
    other = mlp_model()
    for value in other.graph.initializers.values():
        value.const_value = ir.tensor(-value.const_value.numpy(), name=value.name)
    ir.save(other, pair.float_path)
    report = diff_models(loaded(tmp_path))
    assert [layer.weight_rel_error for layer in report.layers] == pytest.approx([2.0] * 3, abs=0.2)


def test_another_float_model_of_other_names(tmp_path: Path) -> None:
    pair = model_pair(mlp_model(), tmp_path, layer_feed("mlp"))
    other = mlp_model()
    for node in other.graph:
        for value in node.outputs:
            value.name = value.name if value.is_graph_output() else f"other_{value.name}"
    ir.save(other, pair.float_path)
    report = diff_models(loaded(tmp_path))
    assert says_nothing_of_layers(report)
    assert report.warnings == [UNKNOWN]


def test_another_float_model_of_other_inputs(tmp_path: Path) -> None:
    pair = model_pair(layer_model("tied"), tmp_path, layer_feed("tied"))
    other = layer_model("tied")
    other.graph.inputs[0].name = "z"
    ir.save(other, pair.float_path)
    np.savez(tmp_path / "data.npz", z=layer_feed("tied")["x"])
    with pytest.raises(ModelError, match="its inputs are x; the float model's are z"):
        diff_models(loaded(tmp_path))


@pytest.mark.parametrize("damage", ["metadata", "layout", "types"])
def test_a_file_that_was_changed(damage: str, tmp_path: Path) -> None:
    pair = model_pair(mlp_model(), tmp_path, layer_feed("mlp"))
    compiled = ir.load(pair.compiled_path)
    if damage == "metadata":
        compiled.metadata_props.clear()
        compiled.graph.metadata_props.clear()
        for node in compiled.graph:
            node.metadata_props.clear()
    for node in compiled.graph:
        if damage == "layout" and node.op_type == "FrameMatMul":
            node.attributes["layout"] = ir.AttrInt64("layout", 2)
        for value in node.outputs:
            if damage == "types" and not value.is_graph_output():
                value.type = value.shape = None
    ir.save(compiled, pair.compiled_path)
    report = diff_models(loaded(tmp_path))
    assert 0.5 < report.outputs[0].cosine < 0.99
    if damage == "metadata":
        assert report.compilation is None
        assert [layer.name for layer in report.layers] == ["first", "second", "third"]
    else:
        assert says_nothing_of_layers(report)
        assert report.warnings == [UNKNOWN]


@pytest.mark.parametrize("options", [{"bits": 1}, {"method": "gptq"}, {"sides": "both"}], ids=str)
def test_float16(options: dict[str, Any], tmp_path: Path) -> None:
    feed = {"x": layer_feed("mlp")["x"].astype(np.float16)}
    report = diff_models(model_pair(mlp_model(np.float16), tmp_path, feed, **options))
    assert len(report.layers) == 3
    assert report.outputs[0].sqnr_db == pytest.approx(
        -20 * np.log10(report.layers[-1].accumulated_rel_error), abs=0.1
    )


def test_thresholds_are_judged(tmp_path: Path) -> None:
    pair = model_pair(mlp_model(), tmp_path, layer_feed("mlp"))
    found = diff_models(pair, [Threshold("cosine", 0.5), Threshold("sqnr_db", 90.0)]).verdicts
    assert [verdict.met for verdict in found] == [True, False]


def test_models_that_run_in_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = model_pair(mlp_model(), tmp_path, layer_feed("mlp"))
    whole = diff_models(pair)
    monkeypatch.setattr("fqonnx.diff_models.WHOLE_BYTES", 1)
    monkeypatch.setattr("fqonnx.segments.SEGMENT_BYTES", 1)
    report = diff_models(pair)
    assert report.layers == []
    assert report.warnings == [
        "layers are not compared: that takes both models in memory at once, and these are too large"
    ]
    assert report.split is not None
    for found, expected in (
        (report.outputs, whole.outputs),
        (report.split.algorithm, whole.split.algorithm),
    ):
        assert found[0].sqnr_db == pytest.approx(expected[0].sqnr_db, abs=0.2)
