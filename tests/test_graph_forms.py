"""Every form in which a graph may have its weights, from the float model to the compiled file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from fqonnx import CompileConfig, CompileReport, compile_model
from fqonnx.session import Session
from support import model_from_text

HEADER = '<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1, "local": 1]>'
ROWS = 160  # enough for every eighth to be held back


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    scale = 1 / np.sqrt(shape[-2]) if len(shape) > 1 else 1
    return (np.random.default_rng((seed, *shape)).standard_normal(shape) * scale).astype(np.float32)


@dataclass(frozen=True)
class Form:
    """A model with the text of its graph and what follows it.

    Attributes:
        inputs: Declarations of the inputs; ``x`` is drawn by its shape, N being `ROWS`.
        nodes: What makes y.
        arrays: The initializers.
        layers: Names of the layers that are quantized.
        functions: Model-local functions.
        feeds: Inputs that are not drawn.
        requantize: The option.
    """

    inputs: str
    nodes: str
    arrays: dict[str, np.ndarray]
    layers: tuple[str, ...] = ("layer",)
    functions: str = ""
    feeds: dict[str, np.ndarray] = field(default_factory=dict)
    requantize: bool = False

    def model(self, header: str = HEADER) -> ir.Model:
        text = f"{header} g ({self.inputs}) => (float y) {{ {self.nodes} }} {self.functions}"
        model = model_from_text(text, **self.arrays)
        model.graph.outputs[0].shape = None
        return model

    def feed(self) -> dict[str, np.ndarray]:
        feed = {}
        for value in self.model().graph.inputs:
            shape = [ROWS if isinstance(size, ir.SymbolicDim) else size for size in value.shape]
            rng = np.random.default_rng(5)
            feed[value.name] = rng.standard_normal(shape).astype(np.float32) + 0.2
        return feed | self.feeds


def int8(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).integers(-127, 128, shape, np.int8)


X = "float[N, 64] x"
LITERAL = ", ".join(f"{v:.3f}" for v in draw(64, 32).ravel())
FORMS = {
    "transA, transB, alpha and beta": Form(
        X,
        """a = Transpose(x)
        [layer] y = Gemm <transA = 1, transB = 1, alpha = 0.5, beta = 2.0> (a, w, b)""",
        {"w": draw(48, 64), "b": draw(48)},
    ),
    "alpha, and C a scalar": Form(
        X, "[layer] y = Gemm <alpha = 3.0> (x, w, b)", {"w": draw(64, 48), "b": np.float32(0.5)[()]}
    ),
    "C a row": Form(
        X, "[layer] y = Gemm <transB = 1> (x, w, b)", {"w": draw(48, 64), "b": draw(1, 48)}
    ),
    "C a column of the activation": Form(
        X,
        "c = ReduceMean <keepdims = 1> (x, axis) [layer] y = Gemm <beta = 0.5> (x, w, c)",
        {"w": draw(64, 48), "axis": np.array([1])},
    ),
    "chain": Form(
        X,
        """a = Identity(w) b = Cast <to = 1> (a) c = Transpose(b) d = Reshape(c, shape)
        e = Squeeze(d, axis) [layer] y = MatMul(x, e)""",
        {
            "w": draw(48, 64).astype(np.float16),
            "shape": np.array([1, 64, 48]),
            "axis": np.array([0]),
        },
    ),
    "weight of bfloat16": Form(
        X,
        "v = Cast <to = 1> (w) [layer] y = MatMul(x, v)",
        {"w": draw(64, 48).astype(ml_dtypes.bfloat16)},
    ),
    "Constant of floats": Form(
        X,
        f"""w = Constant <value_floats = [{LITERAL}]> () s = Constant <value_ints = [64, 32]> ()
        v = Reshape(w, s) [layer] y = MatMul(x, v)""",
        {},
    ),
    "tied embedding": Form(
        "int64[N, 6] i",
        """[embed] h = Gather(table, i) r = Tanh(h) t = Transpose <perm = [1, 0]> (table)
        [layer] y = MatMul(r, t)""",
        {"table": draw(96, 64)},
        feeds={"i": np.random.default_rng(2).integers(0, 96, (ROWS, 6))},
    ),
    "one weight in three forms": Form(
        X,
        """t = Transpose <perm = [1, 0]> (w) [first] a = MatMul(x, t) b = Tanh(a)
        [second] c = Gemm <transB = 1> (b, w) u = Transpose <perm = [1, 0]> (w) d = Tanh(c)
        [layer] y = MatMul(d, u)""",
        {"w": draw(64, 64)},
        ("first", "second", "layer"),
    ),
    "If": Form(
        "float[N, 64] x, float[N, 1] z",
        """s = ReduceMean <keepdims = 0> (z) zero = Constant <value = float {0.0}> ()
        c = Greater(s, zero)
        y = If (c) <
            then_branch = t () => (float[N, 48] p) {
                [layer] h = MatMul(x, w) p = Add(h, b) },
            else_branch = e () => (float[N, 48] q) { [other] h = MatMul(x, v) q = Relu(h) }
        >""",
        {"w": draw(64, 48), "b": draw(48), "v": draw(64, 48, seed=1)},
        ("layer", "other"),
    ),
    "Loop": Form(
        X,
        """m = Constant <value = int64 {3}> () yes = Constant <value = bool {1}> ()
        l, scanned = Loop (m, yes, x) <body = b (int64 i, bool go, float[N, 64] h)
            => (bool go_on, float[N, 64] n, float[N, 48] out) {
            go_on = Identity(go) [layer] p = MatMul(h, w) n = Tanh(p) [other] out = MatMul(n, v) }>
        s = ReduceSum <keepdims = 0> (scanned, zero) z = ReduceSum <keepdims = 1> (l, one)
        y = Add(s, z)""",
        {
            "w": draw(64, 64),
            "v": draw(64, 48),
            "zero": np.array([0]),
            "one": np.array([1]),
        },
        ("layer", "other"),
    ),
    "Scan": Form(
        X,
        """h, y = Scan <num_scan_inputs = 1, body = b (float[1, 64] h, float[64] e)
            => (float[1, 64] n, float[1, 64] out) {
            r = Unsqueeze(e, axis) s = Add(h, r) [layer] p = MatMul(s, w) n = Tanh(p)
            out = Identity(n) }> (h0, x)""",
        {"w": draw(64, 64), "axis": np.array([0]), "h0": np.zeros((1, 64), np.float32)},
    ),
    "If in a Loop": Form(
        X,
        """m = Constant <value = int64 {4}> () yes = Constant <value = bool {1}> ()
        two = Constant <value = int64 {2}> ()
        y = Loop (m, yes, x) <body = b (int64 i, bool go, float[N, 64] h)
            => (bool go_on, float[N, 64] n) {
            go_on = Identity(go) early = Less(i, two)
            n = If (early) <
                then_branch = t () => (float[N, 64] p) { [layer] a = MatMul(h, w) p = Tanh(a) },
                else_branch = e () => (float[N, 64] q) { q = Identity(h) }
            > }>""",
        {"w": draw(64, 64)},
    ),
    "function with a weight of its own": Form(
        X,
        "y = local.Block(x, v)",
        {"v": draw(32, 48)},
        ("inner", "outer"),
        functions=f"""<domain: "local", opset_import: ["": 20]> Block (a, v) => (d) {{
            w = Constant <value = float[64, 32] {{{LITERAL}}}> () [inner] b = MatMul(a, w)
            c = Tanh(b) [outer] d = MatMul(c, v) }}""",
    ),
    "batch of matrices": Form(
        "float[N, 4, 3, 64] x", "[layer] y = MatMul(x, w)", {"w": draw(4, 64, 48)}
    ),
    "batch of matrices, one activation": Form(
        X, "[layer] y = MatMul(x, w)", {"w": draw(2, 3, 64, 48)}
    ),
    "batch of one": Form(X, "[layer] y = MatMul(x, w)", {"w": draw(1, 64, 48)}),
    "Attention": Form(
        "float[N, 5, 64] x",
        "[layer] y = com.microsoft.Attention <num_heads = 4> (x, w, b)",
        {"w": draw(64, 192), "b": draw(192)},
    ),
    "FusedMatMul": Form(
        X,
        "[layer] y = com.microsoft.FusedMatMul <transB = 1, alpha = 0.25> (x, w)",
        {"w": draw(48, 64)},
    ),
    "int8, by tensor": Form(
        X,
        "v = DequantizeLinear(w, s) [layer] y = MatMul(x, v)",
        {"w": int8((64, 48)), "s": np.float32(0.01)[()]},
        requantize=True,
    ),
    "int8, by axis": Form(
        X,
        "v = DequantizeLinear <axis = 0> (w, s, z) [layer] y = Gemm <transB = 1> (x, v)",
        {"w": int8((48, 64)), "s": np.full(48, 0.01, np.float32), "z": np.ones(48, np.int8)},
        requantize=True,
    ),
}


def compile_form(form: Form, folder: Path, **options: object) -> tuple[Path, CompileReport]:
    ir.save(form.model(), folder / "float.onnx")
    np.savez(folder / "data.npz", **form.feed())
    config = CompileConfig(requantize=form.requantize, **options)
    paths = [folder / name for name in ("float.onnx", "compiled.onnx")]
    return paths[1], compile_model(*paths, config, calibration=folder / "data.npz")


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    "options",
    [{"bits": 4}, {"bits": 4, "lowering": "onnx"}, {"bits": 4, "lowering": "stock"}, {"bits": 3}],
    ids=["fused", "onnx", "stock", "trellis"],
)
def test_form_is_quantized_and_computes_the_same(
    name: str, options: dict[str, object], tmp_path: Path
) -> None:
    form = FORMS[name]
    compiled, report = compile_form(form, tmp_path, **options)
    layers = {layer.name: layer for layer in report.layers}
    assert {n for n, layer in layers.items() if layer.status == "quantized"} == set(form.layers)
    model = ir.load(compiled)
    tensors = [v.const_value for graph in model.graphs() for v in graph.initializers.values()]
    assert not [t.name for t in tensors if t.dtype.is_floating_point() and t.size >= 1024]
    before = Session(tmp_path / "float.onnx", "float").run(form.feed())[0]
    after = Session(compiled, "compiled").run(form.feed())[0]
    assert after.shape == before.shape
    error = np.linalg.norm(after - before) / np.linalg.norm(before)
    assert 1e-3 < error < (0.2 if options["bits"] == 4 else 0.25)
    for layer in form.layers:
        assert layers[layer].output_rel_error is not None
        assert layers[layer].output_rel_error < 0.2
