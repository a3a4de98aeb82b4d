from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from fqonnx.model_pair import ModelPair
from fqonnx.passes import AddSwitchesPass
from fqonnx.passes.add_switches import SWITCHES
from fqonnx.session import Session
from layer_models import LAYERS, layer_alone, layer_feed, layer_model, run
from support import mlp_model, model_pair


def switched(pair: ModelPair) -> ir.Model:
    """Apply the pass, and check the result's form."""
    model = pair.model.clone()
    inputs, outputs = (
        [v.name for v in values] for values in (model.graph.inputs, model.graph.outputs)
    )
    assert AddSwitchesPass(pair.compiled, [layer.source for layer in pair.layers])(model).modified
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    assert [v.name for v in model.graph.inputs] == [*inputs, SWITCHES]
    assert [v.name for v in model.graph.outputs] == outputs
    return model


@pytest.mark.parametrize("name", LAYERS)
def test_none_and_all_are_both_models(name: str, tmp_path: Path) -> None:
    feed = layer_feed(name)
    pair = model_pair(layer_model(name), tmp_path, feed)
    session = Session(switched(pair), "switched")
    for compiled, other in ((False, ir.load(pair.float_path)), (True, pair.compiled)):
        found = session.run({**feed, SWITCHES: np.full(len(pair.layers), compiled)})
        for array, wanted in zip(found, Session(other, "other").run(feed), strict=True):
            np.testing.assert_allclose(array, wanted, rtol=1e-3, atol=1e-3)


def test_every_mixture(tmp_path: Path) -> None:
    feed = layer_feed("mlp")
    pair = model_pair(mlp_model(), tmp_path, feed)
    session = Session(switched(pair), "switched")
    initial = {v.name: v.const_value.numpy() for v in mlp_model().graph.initializers.values()}
    floats = (
        lambda x: x @ initial["w1"].T + initial["b1"],
        lambda x: x @ initial["w2"] + initial["b2"],
        lambda x: x @ initial["w3"],
    )
    for choice in itertools.product([False, True], repeat=3):
        x = feed["x"]
        for i, (compiled, names) in enumerate(zip(choice, LAYERS["mlp"], strict=True)):
            x = layer_alone(pair, *names, x) if compiled else floats[i](x)
            x = x if i == 2 else np.maximum(x, 0)
        (found,) = session.run({**feed, SWITCHES: np.array(choice)})
        np.testing.assert_allclose(found, x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("only", range(4))
def test_layers_of_one_node_are_switched_one_by_one(only: int, tmp_path: Path) -> None:
    feed = layer_feed("heads")
    pair = model_pair(layer_model("heads"), tmp_path, feed)
    names, before = LAYERS["heads"], ir.load(pair.float_path)
    values = dict(zip("qkv", run(before, feed, *"qkv"), strict=True))
    weight = before.graph.initializers["wo"].const_value.numpy()
    if only < 3:
        values[names[only][1]] = layer_alone(pair, *names[only], feed["x"])
    s = values["q"] + values["k"] + values["v"]
    y = layer_alone(pair, "s", "y", s) if only == 3 else s @ weight
    found = Session(switched(pair), "s").run({**feed, SWITCHES: np.arange(4) == only})
    np.testing.assert_allclose(found[0], values["q"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found[1], y, rtol=1e-3, atol=1e-3)


def test_float16(tmp_path: Path) -> None:
    feed = {"x": layer_feed("mlp")["x"].astype(np.float16)}
    pair = model_pair(mlp_model(np.float16), tmp_path, feed)
    (found,) = Session(switched(pair), "s").run({**feed, SWITCHES: np.ones(3, np.bool_)})
    assert found.dtype == np.float16
    wanted = run(pair.compiled, feed, "y")[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-2, atol=1e-2)


def test_what_both_models_share_is_there_once(tmp_path: Path) -> None:
    pair = model_pair(layer_model("embedding"), tmp_path, layer_feed("embedding"))
    model = switched(pair)
    assert [v.name for v in model.graph.initializers.values() if v.shape == (500, 32)] == ["table"]
