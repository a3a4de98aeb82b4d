"""Models whose layers are of all kinds, and what their layers do by plain ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from fqonnx.model_pair import ModelPair
from support import mlp_model, model_from_text

HEADER = '<ir_version: 10, opset_import: ["": 20]>'
# Of each model: its layers, as the values that they read and give.
LAYERS: Mapping[str, list[tuple[str, str]]] = {
    "mlp": [("x", "h1"), ("r1", "h2"), ("r2", "y")],
    "heads": [("x", "q"), ("x", "k"), ("x", "v"), ("s", "y")],
    "tied": [("x", "h"), ("r", "y")],
    "convolutions": [("x", "h"), ("r", "y")],
    "nested": [("x", "h"), ("r", "y")],
    "embedding": [("e", "h"), ("r", "y")],
}


def draw(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def layer_model(name: str) -> ir.Model:
    """Return a model of `LAYERS`."""
    if name == "mlp":
        return mlp_model()
    texts = {
        # One input for three layers, one of which is an output of the graph, one has a bias.
        "heads": """g (float[B, L, 32] x, int64[B, L] mask)
            => (float[B, L, 40] q, float[B, L, 48] y) {
            [q] q = MatMul(x, wq) [k] k = MatMul(x, wk) [v] p = MatMul(x, wv) v = Add(p, b)
            s = Sum(q, k, v) [o] y = MatMul(s, wo) }""",
        "tied": """g (float[N, 48] x) => (float[N, 48] y) {
            [first] h = MatMul(x, w) r = Relu(h) [second] y = MatMul(r, w) }""",
        # Rows of its input, and patches that overlap.
        "convolutions": """g (float[N, 32, 6, 6] x) => (float[N, 24, 6, 6] y) {
            [rows] h = Conv(x, w, b) r = Relu(h)
            [patches] y = Conv <pads = [1, 1, 1, 1]> (r, v, c) }""",
        # Around an If that reads what is outside of it, a Loop, and a function of the model's own.
        "nested": """g (float[N, 32] x, bool c) => (float[N, 40] y) {
            [first] h = MatMul(x, w)
            i = If (c) <
                then_branch = t () => (float[N, 40] p) { m = Relu(h) p = local.twice(m) },
                else_branch = e () => (float[N, 40] q) { q = Neg(h) }
            >
            count = Constant <value_int = 2> ()
            r = Loop (count, , i) <
                body = l (int64 n, bool go, float[N, 40] a) => (bool on, float[N, 40] z) {
                    on = Identity(go) z = Tanh(a) }
            >
            [second] y = MatMul(r, v) }""",
        "embedding": """g (int64[B, L] ids, int64[B, L] mask) => (float[B, L, 40] y) {
            e = Gather(table, ids) [first] h = MatMul(e, w) r = Relu(h)
            [second] y = MatMul(r, v) }""",
    }
    arrays = {
        "heads": {
            "wq": draw(32, 40),
            "wk": draw(32, 40, seed=2),
            "wv": draw(32, 40, seed=3),
            "b": draw(40),
            "wo": draw(40, 48),
        },
        "tied": {"w": draw(48, 48)},
        "convolutions": {
            "w": draw(40, 32, 1, 1),
            "b": draw(40),
            "v": draw(24, 40, 3, 3),
            "c": draw(24),
        },
        "nested": {"w": draw(32, 40), "v": draw(40, 40)},
        "embedding": {"table": draw(500, 32), "w": draw(32, 40), "v": draw(40, 40)},
    }
    functions = """<domain: "local", opset_import: ["": 20]>
        twice (a) => (b) { b = Add(a, a) }"""
    if name != "nested":
        return model_from_text(f"{HEADER} {texts[name]}", **arrays[name])
    header = '<ir_version: 10, opset_import: ["": 20, "local": 1]>'
    return model_from_text(f"{header} {texts[name]} {functions}", **arrays[name])


def layer_feed(name: str) -> dict[str, np.ndarray]:
    """Return a batch for it; the padding of one that has any is at the ends of half the rows."""
    mask = np.ones((20, 6), np.int64)
    mask[::2, 4:] = 0
    return {
        "mlp": {"x": draw(40, 64)},
        "heads": {"x": draw(20, 6, 32), "mask": mask},
        "tied": {"x": draw(40, 48)},
        "convolutions": {"x": draw(20, 32, 6, 6)},
        "nested": {"x": draw(40, 32), "c": np.array(True)},
        "embedding": {
            "ids": np.random.default_rng(0).integers(0, 500, (20, 6)),
            "mask": mask,
        },
    }[name]


def run(model: ir.Model, feed: Mapping[str, np.ndarray], *names: str) -> list[np.ndarray]:
    """Return values of a model, whatever its outputs are, by plain ONNX Runtime."""
    model = model.clone()
    values = ir.convenience.create_value_mapping(model.graph)
    for name in names:
        if not values[name].is_graph_output():
            model.graph.outputs.append(values[name])
    content = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(list(names), dict(feed))


def layer_alone(pair: ModelPair, x: str, output: str, array: np.ndarray) -> np.ndarray:
    """Return what a layer of the compiled model gives for an activation."""
    part = pair.compiled.clone()
    part.graph = ir.convenience.extract(part.graph, [x], [output])
    return run(part, {x: array}, output)[0]


def relative_error(found: np.ndarray, wanted: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return ‖found − wanted‖/‖wanted‖ where a mask of the first axes is not zero."""
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    if mask is not None:
        found, wanted = found[mask != 0], wanted[mask != 0]
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
