from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from fqonnx.model_pair import ModelPair
from fqonnx.passes import AddErrorOutputsPass
from fqonnx.session import Session
from layer_models import LAYERS, draw, layer_alone, layer_feed, layer_model, run
from support import mlp_model, model_pair


def summed(
    pair: ModelPair, feed: dict[str, np.ndarray], mask_input: str | None = None
) -> np.ndarray:
    """Apply the pass, check the result's form, and run it; return its outputs (layers, 3)."""
    model = pair.model.clone()
    errors = AddErrorOutputsPass(pair.compiled, [layer.source for layer in pair.layers], mask_input)
    assert errors(model).modified
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    session = Session(model, "model")
    assert session.output_names == list(errors.output_names)
    assert [i.name for i in session.inputs] == [i.name for i in pair.model.graph.inputs]
    return np.stack(session.run(feed, errors.output_names))


@pytest.mark.parametrize("name", LAYERS)
def test_sums_of_squares(name: str, tmp_path: Path) -> None:
    feed = layer_feed(name)
    pair = model_pair(layer_model(name), tmp_path, feed)
    found = summed(pair, feed, pair.mask_input)
    before = ir.load(pair.float_path)
    for i, (x, output) in enumerate(LAYERS[name]):
        (reference,) = run(before, feed, output)
        array = feed[x] if x in feed else run(before, feed, x)[0]
        others = layer_alone(pair, x, output, array), run(pair.compiled, feed, output)[0]
        parts = [reference, others[0] - reference, others[1] - reference]
        if pair.mask_input is not None:
            parts = [part[feed["mask"] != 0] for part in parts]
        wanted = [np.square(part.astype(np.float64)).sum() for part in parts]
        np.testing.assert_allclose(found[i], wanted, rtol=2e-3)


def test_float16_is_summed_in_float32(tmp_path: Path) -> None:
    feed = {"x": 100 * draw(40, 64).astype(np.float16)}
    pair = model_pair(mlp_model(np.float16), tmp_path, feed)
    found = summed(pair, feed)
    assert found.dtype == np.float32
    assert found[0, 0] > np.finfo(np.float16).max
    (h1,) = run(ir.load(pair.float_path), feed, "h1")
    assert found[0, 0] == pytest.approx(np.square(h1.astype(np.float64)).sum(), rel=1e-3)


def test_mask_that_keeps_nothing_gives_zeros(tmp_path: Path) -> None:
    feed = layer_feed("heads")
    pair = model_pair(layer_model("heads"), tmp_path, feed)
    nothing = feed | {"mask": np.zeros_like(feed["mask"])}
    assert np.array_equal(summed(pair, nothing, "mask"), np.zeros((4, 3)))


def test_what_both_models_share_is_there_once(tmp_path: Path) -> None:
    pair = model_pair(layer_model("embedding"), tmp_path, layer_feed("embedding"))
    model = pair.model.clone()
    AddErrorOutputsPass(pair.compiled, [layer.source for layer in pair.layers])(model)
    tables = [v.name for v in model.graph.initializers.values() if v.shape == (500, 32)]
    assert tables == ["table"]
    packed = [v for v in model.graph.initializers.values() if str(v.name).endswith(".codes")]
    assert len(packed) == len(pair.layers)


def test_what_no_layer_needs_is_not_run(tmp_path: Path) -> None:
    pair = model_pair(mlp_model(), tmp_path, layer_feed("mlp"))
    model = pair.model.clone()
    AddErrorOutputsPass(pair.compiled, [pair.layers[0].source])(model)
    assert not [node for node in model.graph if node.op_type == "Relu"]


@pytest.mark.parametrize("opset", [13, 17])
def test_any_supported_opset(opset: int, tmp_path: Path) -> None:
    model = layer_model("heads")
    model.graph.opset_imports[""] = opset
    feed = layer_feed("heads")
    pair = model_pair(model, tmp_path, feed)
    (q,) = run(ir.load(pair.float_path), feed, "q")
    wanted = np.square(q[feed["mask"] != 0]).sum()
    assert summed(pair, feed, "mask")[0, 0] == pytest.approx(wanted, rel=1e-5)


def test_the_first_layer_stands_last(tmp_path: Path) -> None:
    """ONNX Runtime goes back from there, and is done with it before it comes to the next."""
    pair = model_pair(mlp_model(), tmp_path, layer_feed("mlp"))
    model = pair.model.clone()
    errors = AddErrorOutputsPass(pair.compiled, [layer.source for layer in pair.layers])
    errors(model)
    made = [node.outputs[0].name for node in model.graph]
    assert [name for name in reversed(made) if name in errors.output_names] == list(
        errors.output_names
    )
