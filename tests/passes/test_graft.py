from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from fqonnx.passes.graft import graft
from layer_models import draw, layer_feed, layer_model, run
from support import model_from_text

HEADER = '<ir_version: 10, opset_import: ["": 20]>'


def layer(weight: np.ndarray, name: str = "w") -> ir.Model:
    return model_from_text(
        f"{HEADER} g (float[N, 4] x) => (float[N, 4] y) {{ h = MatMul(x, {name}) y = Relu(h) }}",
        **{name: weight},
    )


def grafted(model: ir.Model, donor: ir.Model) -> list[ir.Value]:
    """Graft all nodes of a donor onto a model; return what its outputs became, as outputs."""
    outputs = list(donor.graph.outputs)
    graft(model, donor, tuple(donor.graph), {str(v.name): v for v in model.graph.inputs})
    model.graph.outputs.extend(outputs)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return outputs


def test_both_run_side_by_side() -> None:
    model, donor, x = layer(draw(4, 4)), layer(draw(4, 4, seed=2)), draw(3, 4)
    (output,) = grafted(model, donor)
    assert output.name == "compiled.y"
    first, second = run(model, {"x": x}, "y", "compiled.y")
    np.testing.assert_allclose(first, np.maximum(x @ draw(4, 4), 0), rtol=1e-5)
    np.testing.assert_allclose(second, np.maximum(x @ draw(4, 4, seed=2), 0), rtol=1e-5)
    assert set(model.graph.initializers) == {"w", "compiled.w"}


def test_twice() -> None:
    model, x = layer(draw(4, 4)), draw(3, 4)
    names = [grafted(model, layer(draw(4, 4, seed=i)))[0].name for i in (1, 2)]
    found = run(model, {"x": x}, *map(str, names))
    for i, array in enumerate(found, 1):
        np.testing.assert_allclose(array, np.maximum(x @ draw(4, 4, seed=i), 0), rtol=1e-5)


def test_equal_constants_are_shared() -> None:
    weight = draw(4, 4)
    weight[0, 0] = np.nan
    model = layer(weight)
    grafted(model, layer(weight.copy()))
    assert set(model.graph.initializers) == {"w"}
    assert len(model.graph.initializers["w"].uses()) == 2


@pytest.mark.parametrize(
    "other",
    [
        np.zeros((4, 4), np.float32),
        np.full((4, 4), -0.0, np.float32),
        np.zeros(1, np.float32),
        np.zeros((4, 4), np.int32),
    ],
)
def test_different_constants_of_one_name_are_not(other: np.ndarray) -> None:
    model = layer(np.zeros((4, 4), np.float32))
    donor = layer(other)
    graft(model, donor, tuple(donor.graph), {"x": model.graph.inputs[0]})
    assert ("compiled.w" in model.graph.initializers) == (
        other.tobytes() != bytes(64) or other.dtype != np.float32
    )


def test_constants_of_other_names_go_along() -> None:
    model = layer(draw(4, 4))
    grafted(model, layer(draw(4, 4), "v"))
    assert set(model.graph.initializers) == {"w", "compiled.v"}


def test_defaults_of_inputs_are_the_inputs() -> None:
    """What a caller may replace is replaced in both, and is there once."""
    models = []
    for _ in range(2):
        model = layer(draw(4, 4))
        model.graph.inputs.append(model.graph.initializers["w"])
        models.append(model)
    grafted(*models)
    assert set(models[0].graph.initializers) == {"w"}
    x, weight = draw(3, 4), draw(4, 4, seed=9)
    for found in run(models[0], {"x": x, "w": weight}, "y", "compiled.y"):
        np.testing.assert_allclose(found, np.maximum(x @ weight, 0), rtol=1e-5)


@pytest.mark.parametrize("condition", [True, False])
def test_subgraphs_and_functions(condition: bool) -> None:
    model, donor = layer_model("nested"), layer_model("nested")
    donor.graph.initializers["v"].const_value = ir.tensor(2 * draw(40, 40), name="v")
    grafted(model, donor)
    feed = {"x": layer_feed("nested")["x"], "c": np.array(condition)}
    first, second = run(model, feed, "y", "compiled.y")
    assert np.abs(first).max() > 0.1
    np.testing.assert_allclose(second, 2 * first, rtol=1e-5)
    assert set(model.graph.initializers) == {"w", "v", "compiled.v"}
    assert len(model.functions) == 1


def test_functions_and_versions_come_along() -> None:
    model = model_from_text(f"{HEADER} g (float[N, 4] x) => (float[N, 4] y) {{ y = Relu(x) }}")
    donor = model_from_text(
        """<ir_version: 11, opset_import: ["": 20, "local": 3]>
        g (float[N, 4] x) => (float[N, 4] y) { y = local.twice(x) }
        <domain: "local", opset_import: ["": 20]> twice (a) => (b) { b = Add(a, a) }"""
    )
    grafted(model, donor)
    assert (model.ir_version, model.graph.opset_imports) == (11, {"": 20, "local": 3})
    np.testing.assert_array_equal(run(model, {"x": draw(3, 4)}, "compiled.y")[0], 2 * draw(3, 4))
