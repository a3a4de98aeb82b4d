from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from fqonnx.passes import ExactProductsPass
from fqonnx.runtime_ops import DOMAIN
from fqonnx.session import Session
from layer_models import LAYERS, layer_feed, layer_model
from support import mlp_by_the_reference, mlp_model, model_pair


@pytest.mark.parametrize("quantize_bias", [True, False])
def test_products_are_those_of_the_reference(quantize_bias: bool, tmp_path: Path) -> None:
    feed = layer_feed("mlp")
    options = {"method": "sigma-delta", "lowering": "fused", "quantize_bias": quantize_bias}
    pair = model_pair(mlp_model(), tmp_path, feed, **options)
    wanted = mlp_by_the_reference(pair.compiled_path, feed["x"])
    errors = []
    for exact in (False, True):
        if exact:
            assert ExactProductsPass()(pair.compiled).modified
            onnx.checker.check_model(ir.to_proto(pair.compiled))
        (found,) = Session(pair.compiled, "model", frugal=exact).run(feed)
        errors.append(np.abs(found - wanted).max())
    assert errors[1] < 1e-5 < 1e-3 < errors[0]


@pytest.mark.parametrize("name", LAYERS)
def test_bodies_are_those_that_lowering_to_onnx_gives(name: str, tmp_path: Path) -> None:
    feed, outputs = layer_feed(name), []
    for lowering in ("fused", "onnx"):
        folder = tmp_path / lowering
        folder.mkdir()
        pair = model_pair(layer_model(name), folder, feed, lowering=lowering, sequential=False)
        assert ExactProductsPass()(pair.compiled).modified == (lowering == "fused")
        functions = [f for f in pair.compiled.functions.values() if f.domain == DOMAIN]
        used = {node.overload for node in pair.compiled.graph if node.domain == DOMAIN}
        assert {function.overload for function in functions} == used
        assert all(node.domain in ("", DOMAIN) for f in functions for node in f.graph)
        outputs.append(Session(pair.compiled, "model").run(feed))
    for first, second in zip(*outputs, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-4)


def test_a_float_model_stays_as_it_is() -> None:
    model = mlp_model()
    before = ir.to_proto(model).SerializeToString()
    assert not ExactProductsPass()(model).modified
    assert ir.to_proto(model).SerializeToString() == before
