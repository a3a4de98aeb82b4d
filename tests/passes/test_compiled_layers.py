from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from fqonnx.model_pair import ModelPair
from fqonnx.passes import InlineFrameOpsPass, SelectWeightsPass, compiled_layers, normalize
from layer_models import LAYERS, draw, layer_feed, layer_model
from support import mlp_model, model_from_text, model_pair


def selected(model: ir.Model) -> list[str]:
    """Return the names of the layers that a model may have compiled."""
    select = SelectWeightsPass()
    select(model)
    return [layer.name for layer in select.layers]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("lowering", ["fused", "onnx"])
def test_every_layer_is_found(name: str, lowering: str, tmp_path: Path) -> None:
    pair = model_pair(layer_model(name), tmp_path, layer_feed(name), lowering=lowering)
    assert [layer.source.name for layer in pair.layers] == selected(pair.model)
    for layer, (x, output) in zip(pair.layers, LAYERS[name], strict=True):
        assert (layer.source.x.name, layer.output.name) == (x, output)
        assert layer.node in layer.nodes
        assert layer.spec.frame_in.dim == layer.source.dim_in
        assert set(layer.packed()) == {"codes", "scales", "signs_in"}


def test_layers_of_one_node_have_rows_each(tmp_path: Path) -> None:
    pair = model_pair(layer_model("heads"), tmp_path, layer_feed("heads"))
    *heads, last = pair.layers
    assert len({layer.node for layer in heads}) == 1
    assert heads[0].spec.splits == (40, 40, 40)
    rows = [(layer.rows.start, layer.rows.stop) for layer in pair.layers]
    assert rows == [(0, 40), (40, 80), (80, 120), (0, 48)]
    assert last.spec.splits == ()


def test_convolutions_of_one_node(tmp_path: Path) -> None:
    model = model_from_text(
        """<ir_version: 10, opset_import: ["": 20]> g (float[N, 32, 6, 6] x)
        => (float[N, 40, 6, 6] y, float[N, 48, 6, 6] z) { y = Conv(x, w) z = Conv(x, v) }""",
        w=draw(40, 32, 1, 1),
        v=draw(48, 32, 1, 1),
    )
    pair = model_pair(model, tmp_path, {"x": draw(8, 32, 6, 6)})
    assert [(layer.output.name, layer.rows) for layer in pair.layers] in (
        [("y", slice(0, 40)), ("z", slice(40, 88))],
        [("y", slice(0, 40)), ("z", slice(0, 48))],  # where their inputs are not one value
    )


def test_bias_is_no_weight(tmp_path: Path) -> None:
    model = model_from_text(
        """<ir_version: 10, opset_import: ["": 20]> g (float[N, 48] x) => (float[N, 48] y) {
            h = MatMul(x, w) y = Add(h, b) }""",
        w=draw(48, 48),
        b=draw(48),
    )
    pair = model_pair(model, tmp_path, {"x": draw(40, 48)}, quantize_bias=True)
    (layer,) = pair.layers
    assert layer.node.op_type == "FrameMatMul"
    assert {node.op_type for node in layer.nodes} == {
        "FrameMatMul",
        "FrameDequant",
        "Constant",
        "Reshape",
    }
    assert "bias" not in layer.packed()


def test_layers_that_stay_float_are_none(tmp_path: Path) -> None:
    pair = model_pair(mlp_model(), tmp_path, layer_feed("mlp"), exclude=("second",))
    assert [layer.source.name for layer in pair.layers] == ["first", "third"]


def test_stock_operators_are_no_layers(tmp_path: Path) -> None:
    pair = model_pair(mlp_model(), tmp_path, layer_feed("mlp"), lowering="stock")
    assert pair.layers == []


def test_functions_that_were_inlined_are_no_layers(tmp_path: Path) -> None:
    pair = model_pair(mlp_model(), tmp_path, layer_feed("mlp"))
    InlineFrameOpsPass()(pair.compiled)
    assert compiled_layers(pair.compiled, [layer.source for layer in pair.layers]) == []


def test_no_layers_to_look_for() -> None:
    assert compiled_layers(mlp_model(), []) == []


def test_the_float_model_itself_has_none() -> None:
    model = mlp_model()
    normalize(model)
    select = SelectWeightsPass()
    select(model)
    assert compiled_layers(mlp_model(), select.layers) == []


def chain(*names: str) -> ir.Model:
    """Return layers of 48 × 48 in a row, whose outputs have these names."""
    nodes, x = "", "x"
    for name in names:
        nodes, x = f"{nodes} {name} = MatMul({x}, w_{name})", name
    text = f"float[N, 48] x) => (float[N, 48] {x}) {{ {nodes} }}"
    weights = {f"w_{name}": draw(48, 48, seed=i) for i, name in enumerate(names)}
    return model_from_text(f'<ir_version: 10, opset_import: ["": 20]> g ({text}', **weights)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("h", "i", "y"), ["h", "i", "y"]),
        (("i", "h", "y"), []),
        (("h", "y"), ["h"]),
        (("h", "j", "y"), ["h"]),
        (("j", "h", "i", "y"), ["i", "y"]),
    ],
)
def test_layers_of_another_model_are_those_that_read_the_same(
    names: tuple[str, ...], found: list[str], tmp_path: Path
) -> None:
    data = {"x": draw(40, 48)}
    pair = model_pair(chain(*names), tmp_path, data)
    ir.save(chain("h", "i", "y"), tmp_path / "other.onnx")
    other = ModelPair.load(tmp_path / "other.onnx", pair.compiled_path, tmp_path / "data.npz")
    assert [layer.output.name for layer in other.layers] == found


@pytest.mark.parametrize("damage", ["layout", "frame_out", "type"])
def test_a_node_of_another_version_leaves_no_layer(damage: str, tmp_path: Path) -> None:
    pair = model_pair(mlp_model(), tmp_path, layer_feed("mlp"))
    node = pair.layers[1].node
    if damage == "layout":
        node.attributes["layout"] = ir.AttrInt64("layout", 2)
    elif damage == "frame_out":
        del node.attributes["frame_out"]
    else:
        node.outputs[0].type = None
    assert compiled_layers(pair.compiled, [layer.source for layer in pair.layers]) == []


def test_weights_of_a_size_that_does_not_fit(tmp_path: Path) -> None:
    pair = model_pair(mlp_model(), tmp_path, layer_feed("mlp"))
    model = mlp_model()
    value = model.graph.initializers["w3"]
    value.const_value = ir.tensor(np.zeros((80, 64), np.float32), name="w3")
    value.shape = ir.Shape((80, 64))
    model.graph.outputs[0].shape = ir.Shape(("n", 64))
    normalize(model)
    select = SelectWeightsPass()
    select(model)
    found = compiled_layers(pair.compiled, select.layers)
    assert [layer.source.name for layer in found] == ["first", "second"]
