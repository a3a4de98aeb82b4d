from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fqonnx.config import METHODS
from fqonnx.diff import LayerDiff, diff_layers
from fqonnx.model_pair import ModelPair
from fqonnx.report import Compilation
from layer_models import LAYERS, layer_alone, layer_feed, layer_model, relative_error, run
from support import mlp_model, model_pair


def found_in(pair: ModelPair) -> list[LayerDiff]:
    return diff_layers(
        pair.model, pair.compiled, pair.layers, pair.samples.feeds, mask_input=pair.mask_input
    )


def wanted_of(
    name: str, pair: ModelPair, feed: dict[str, np.ndarray]
) -> tuple[list[float], list[float]]:
    """Return the local and the accumulated errors of layers by runs of both models."""
    values = sorted({value for layer in LAYERS[name] for value in layer if value not in feed})
    outputs = [output for _, output in LAYERS[name]]
    before = ir.load(pair.float_path)
    floats = feed | dict(zip(values, run(before, feed, *values), strict=True))
    compiled = run(pair.compiled, feed, *outputs)
    mask = feed.get("mask")
    alone = [layer_alone(pair, x, output, floats[x]) for x, output in LAYERS[name]]
    return tuple(  # type: ignore[return-value]
        [relative_error(a, floats[o], mask) for a, o in zip(arrays, outputs, strict=True)]
        for arrays in (alone, compiled)
    )


def check(name: str, pair: ModelPair, feed: dict[str, np.ndarray], rel: float = 1e-3) -> None:
    found, (local, accumulated) = found_in(pair), wanted_of(name, pair, feed)
    assert [layer.output for layer in found] == [output for _, output in LAYERS[name]]
    assert [layer.local_rel_error for layer in found] == pytest.approx(local, rel=rel)
    assert [layer.accumulated_rel_error for layer in found] == pytest.approx(accumulated, rel=rel)
    compilation = Compilation.of_model(pair.compiled)
    assert compilation is not None
    told = {layer.name: layer for layer in compilation.layers}
    for layer in found:
        own = told[layer.name]
        assert layer.weight_rel_error == pytest.approx(own.weight_rel_error, rel=1e-4)
        assert (layer.bits, layer.dim_in, layer.dim_out) == (own.bits, own.dim_in, own.dim_out)
        assert layer.redundancy == pytest.approx(own.redundancy_stored)
        assert layer.frames == [f for f in (own.frame_in, own.frame_out) if f != "identity"]
        assert sum(layer.histogram.counts) == sum(layer.histogram.level_counts)
        assert sum(layer.histogram.level_counts) == layer.dim_in * layer.dim_out * layer.redundancy


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("options", [{}, {"quantize_bias": True, "redundancy": 1.25}], ids=str)
def test_errors_are_those_of_both_models(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    feed = layer_feed(name)
    check(name, model_pair(layer_model(name), tmp_path, feed, **options), feed)


@pytest.mark.parametrize("method", METHODS)
def test_any_method(method: str, tmp_path: Path) -> None:
    feed = layer_feed("mlp")
    check("mlp", model_pair(mlp_model(), tmp_path, feed, method=method), feed)


@pytest.mark.parametrize(
    "options",
    [
        {"sides": "both"},
        {"sides": "out"},
        {"sequential": True},
        {"bits": 1},
        {"bits": 3},
        {"lowering": "onnx"},
    ],
    ids=str,
)
def test_any_option(options: dict[str, Any], tmp_path: Path) -> None:
    feed = layer_feed("mlp")
    check("mlp", model_pair(mlp_model(), tmp_path, feed, **options), feed)


def test_float16(tmp_path: Path) -> None:
    feed = {"x": layer_feed("mlp")["x"].astype(np.float16)}
    check("mlp", model_pair(mlp_model(np.float16), tmp_path, feed), feed, rel=1e-2)


def test_a_layer_alone_is_the_model_with_that_layer(tmp_path: Path) -> None:
    feed = layer_feed("tied")
    pair = model_pair(layer_model("tied"), tmp_path, feed)
    first = {name: array[:16] for name, array in feed.items()}
    h, y = run(ir.load(pair.float_path), first, "h", "y")
    outputs = [
        np.maximum(layer_alone(pair, "x", "h", first["x"]), 0) @ pair.layers[0].source.matrix(),
        layer_alone(pair, "r", "y", np.maximum(h, 0)),
    ]
    wanted = [relative_error(output, y) for output in outputs]
    found = found_in(pair)
    assert [layer.model_rel_error for layer in found] == pytest.approx(wanted, rel=1e-3)
    assert found[0].stored_bytes > found[1].stored_bytes == 0


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e6])
def test_padding_may_hold_anything(junk: float, tmp_path: Path) -> None:
    feed = layer_feed("heads")
    clean = model_pair(layer_model("heads"), tmp_path, feed)
    padded = feed["x"].copy()
    padded[feed["mask"] == 0] = junk
    for errors in ("local_rel_error", "accumulated_rel_error", "model_rel_error"):
        found, wanted = (
            diff_layers(
                clean.model,
                clean.compiled,
                clean.layers,
                ({"x": x, "mask": feed["mask"]},),
                mask_input="mask",
            )
            for x in (padded, feed["x"])
        )
        values = [getattr(layer, errors) for layer in found]
        assert values == pytest.approx([getattr(layer, errors) for layer in wanted], rel=1e-5)


def test_without_a_mask_all_rows_count(tmp_path: Path) -> None:
    feed = layer_feed("heads")
    feed["x"][feed["mask"] == 0] *= 100
    pair = model_pair(layer_model("heads"), tmp_path, feed)
    found = diff_layers(pair.model, pair.compiled, pair.layers, (feed,))
    q = run(ir.load(pair.float_path), feed, "q")[0]
    wanted = relative_error(layer_alone(pair, "x", "q", feed["x"]), q)
    assert found[0].local_rel_error == pytest.approx(wanted, rel=1e-3)


def test_layers_that_give_only_zeros(tmp_path: Path) -> None:
    feed = layer_feed("tied")
    pair = model_pair(layer_model("tied"), tmp_path, feed)
    zeros = {"x": np.zeros_like(feed["x"])}
    found = diff_layers(pair.model, pair.compiled, pair.layers, (zeros,))
    assert [(layer.local_rel_error, layer.model_rel_error) for layer in found] == [(0.0, 0.0)] * 2


def test_outputs_that_are_not_finite(tmp_path: Path) -> None:
    feed = layer_feed("tied")
    pair = model_pair(layer_model("tied"), tmp_path, feed)
    broken = {"x": np.full_like(feed["x"], np.nan)}
    found = diff_layers(pair.model, pair.compiled, pair.layers, (broken,))
    assert all(math.isnan(layer.local_rel_error) for layer in found)
    assert all(layer.model_rel_error == math.inf for layer in found)


def test_the_models_stay_as_they_are(tmp_path: Path) -> None:
    pair = model_pair(layer_model("nested"), tmp_path, layer_feed("nested"))
    before = [ir.to_proto(m).SerializeToString() for m in (pair.model, pair.compiled)]
    found_in(pair)
    assert [ir.to_proto(m).SerializeToString() for m in (pair.model, pair.compiled)] == before


def test_no_layers(tmp_path: Path) -> None:
    pair = model_pair(mlp_model(), tmp_path, layer_feed("mlp"))
    assert diff_layers(pair.model, pair.compiled, [], pair.samples.feeds) == []
