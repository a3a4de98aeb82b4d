"""Every form in which a graph may have its weights, from the float model to the compiled file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from click.testing import CliRunner

from fqonnx import CompileConfig, CompileReport, compile_model
from fqonnx.cli import main
from fqonnx.diff_models import diff_models
from fqonnx.errors import ModelError
from fqonnx.model_pair import ModelPair
from fqonnx.runtime_ops import DOMAIN, FrameOpSpec, register
from fqonnx.session import Session, session_options
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
    "Loop in an If": Form(
        X,
        """m = Constant <value = int64 {2}> () yes = Constant <value = bool {1}> ()
        y = If (yes) <
            then_branch = t () => (float[N, 48] p) {
                l = Loop (m, yes, x) <body = b (int64 i, bool go, float[N, 64] h)
                    => (bool go_on, float[N, 64] n) {
                    go_on = Identity(go) [layer] a = MatMul(h, w) n = Tanh(a) }>
                [other] p = MatMul(l, v) },
            else_branch = e () => (float[N, 48] q) { q = MatMul(x, v) }
        >""",
        {"w": draw(64, 64), "v": draw(64, 48)},
        ("layer", "other", "q"),
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
    "GroupQueryAttention": Form(
        "float[N, 5, 64] x",
        """[query] q = MatMul(x, a) [key] k = MatMul(x, b) [value] v = MatMul(x, c)
        n = Shape <start = 0, end = 1> (x) past = ConstantOfShape <value = int32[1] {4}> (n)
        total = Constant <value = int32 {5}> ()
        h, i, j = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2>
            (q, k, v, , , past, total)
        [layer] y = MatMul(h, d)""",
        {"a": draw(64, 64), "b": draw(64, 32), "c": draw(64, 32, seed=1), "d": draw(64, 48)},
        ("query", "key", "value", "layer"),
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


@pytest.mark.parametrize("name", FORMS)
def test_layers_are_found_again_and_compared(name: str, tmp_path: Path) -> None:
    form = FORMS[name]
    compiled, report = compile_form(form, tmp_path, bits=4)
    pair = ModelPair.load(tmp_path / "float.onnx", compiled, tmp_path / "data.npz")
    diff = diff_models(pair)
    compared = [layer.name for layer in diff.layers]
    assert sorted(compared + pair.inner_layers) == sorted(form.layers)
    assert bool(pair.inner_layers) == any("by themselves" in text for text in diff.warnings)
    of_weights = {layer.name: layer.weight_rel_error for layer in report.layers}
    for layer in diff.layers:
        assert 0 < layer.local_rel_error < 0.2
        assert layer.weight_rel_error == pytest.approx(of_weights[layer.name], rel=0.02)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("bits", [3, 4])
def test_library_runs_every_form(name: str, bits: int, tmp_path: Path) -> None:
    compiled, _ = compile_form(FORMS[name], tmp_path, bits=bits)
    options = session_options()
    register(options)
    library = ort.InferenceSession(compiled, options, providers=["CPUExecutionProvider"])
    expected = Session(compiled, "bodies").run(FORMS[name].feed())[0]
    actual = library.run(None, FORMS[name].feed())[0]
    assert np.linalg.norm(actual - expected) < 0.03 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 3, "sequential": True},
        {"target_bits": 3.0},
        {"method": "sigma-delta", "bits": 4, "quantize_bias": True},
        {"method": "framequant", "bits": 4},
    ],
    ids=["sequential", "target bits", "sigma-delta", "framequant"],
)
@pytest.mark.parametrize(
    "name", ["If", "Loop", "tied embedding", "batch of matrices", "Attention", "int8, by axis"]
)
def test_other_ways_to_quantize(name: str, options: dict[str, object], tmp_path: Path) -> None:
    _, report = compile_form(FORMS[name], tmp_path, **options)
    quantized = {layer.name for layer in report.layers if layer.status == "quantized"}
    assert quantized == set(FORMS[name].layers)
    assert report.outputs[0].cosine > 0.8


def test_weight_that_three_nodes_make_their_own_of_is_stored_once(tmp_path: Path) -> None:
    _, report = compile_form(FORMS["one weight in three forms"], tmp_path, bits=4)
    first, *others = (layer.stored_bytes for layer in report.layers)
    assert first > 64 * 64 / 2
    assert others == [0, 0]


def test_integers_stay_unless_asked_for(tmp_path: Path) -> None:
    form = replace(FORMS["int8, by tensor"], requantize=False)
    compiled, report = compile_form(form, tmp_path, bits=4)
    (layer,) = report.layers
    assert "--requantize" in layer.reason
    feed = form.feed()
    before, after = (
        Session(path, "model").run(feed)[0] for path in (tmp_path / "float.onnx", compiled)
    )
    np.testing.assert_array_equal(before, after)
    again = [tmp_path / "float.onnx", "-o", tmp_path / "again.onnx", "--bits", "4", "--requantize"]
    result = CliRunner().invoke(main, ["compile", *map(str, again)])
    assert result.exit_code == 0, result.output
    assert FrameOpSpec.of_node(_packed(tmp_path / "again.onnx")[0]).bits == 4


def _packed(path: Path) -> list[ir.Node]:
    return [node for node in ir.load(path).graph.all_nodes() if node.domain == DOMAIN]


def tied(rows: int) -> Form:
    """Return a model whose embedding is as large as a part of its weights."""
    return Form(
        "int64[N, 4] i",
        """[embed] h = Gather(table, i) [wide] a = MatMul(h, u) b = Tanh(a)
        [narrow] c = MatMul(b, v) t = Transpose <perm = [1, 0]> (table) [layer] y = MatMul(c, t)""",
        {"table": draw(rows, 64), "u": draw(64, 512), "v": draw(512, 64)},
        feeds={"i": np.random.default_rng(2).integers(0, rows, (ROWS, 4))},
    )


@pytest.mark.parametrize(("rows", "is_copied"), [(16, True), (96, False)])
def test_small_table_stays_float_for_its_lookups(
    rows: int, is_copied: bool, tmp_path: Path
) -> None:
    compiled, report = compile_form(tied(rows), tmp_path, bits=4, include=("*",))
    model = ir.load(compiled)
    assert ("table" in model.graph.initializers) == is_copied
    (text,) = [text for text in report.warnings if "Gather" in text]
    assert ("float copy" in text) == is_copied
    assert {"layer"} <= {x.name for x in report.layers if x.status == "quantized"}
    before, after = (
        Session(path, "model").run(tied(rows).feed())[0]
        for path in (tmp_path / "float.onnx", compiled)
    )
    assert np.linalg.norm(after - before) < 0.2 * np.linalg.norm(before)


def test_table_of_a_layer_that_stays_float_is_not_mentioned(tmp_path: Path) -> None:
    form = tied(96)
    form.arrays["table"] *= 1e-9
    _, report = compile_form(form, tmp_path, bits=4)
    assert [x.status for x in report.layers if x.name == "layer"] == ["float"]
    assert not [text for text in report.warnings if "Gather" in text]


@pytest.mark.parametrize(
    ("form", "is_copied"),
    [
        (
            Form(
                "int64[N, 4] i",
                "h = Gather(w, i) t = Transpose <perm = [0, 1]> (w) [layer] y = MatMul(h, t)",
                {"w": draw(64, 64)},
                feeds={"i": np.random.default_rng(2).integers(0, 64, (ROWS, 4))},
            ),
            False,
        ),
        (
            Form(
                X,
                """[layer] a = MatMul(x, w) one = Constant <value_int = 1> () e = Gather(w, one)
                b = MatMul(x, e) y = Add(a, b)""",
                {"w": draw(3, 64, 48)},
            ),
            True,
        ),
        (
            Form(
                "float[N, 16, 6, 6] x",
                """[layer] a = Conv(x, w) one = Constant <value_int = 1> () e = Gather(w, one)
                b = ReduceSum <keepdims = 0> (e) y = Add(a, b)""",
                {"w": draw(32, 16, 3, 3)},
            ),
            True,
        ),
    ],
    ids=["a Transpose of nothing", "matrices", "kernel"],
)
def test_lookups_find_the_table_as_it_was(form: Form, is_copied: bool, tmp_path: Path) -> None:
    compiled, report = compile_form(form, tmp_path, bits=4)
    assert [x.name for x in report.layers if x.status == "quantized"] == ["layer"]
    assert ("w" in ir.load(compiled).graph.initializers) == is_copied
    before, after = (
        Session(path, "model").run(form.feed())[0] for path in (tmp_path / "float.onnx", compiled)
    )
    assert np.linalg.norm(after - before) < 0.25 * np.linalg.norm(before)


@pytest.mark.parametrize("opset", range(13, 27))
@pytest.mark.parametrize("lowering", ["fused", "onnx", "stock"])
def test_every_opset_that_onnx_runtime_knows(opset: int, lowering: str, tmp_path: Path) -> None:
    version = {13: 7, 14: 7, 15: 8, 19: 9, 20: 9, 21: 10}.get(opset, 8 if opset < 19 else 11)
    form = FORMS["Loop"]
    header = f'<ir_version: {version}, opset_import: ["": {opset}]>'
    ir.save(form.model(header), tmp_path / "float.onnx")
    np.savez(tmp_path / "data.npz", **form.feed())
    paths = [tmp_path / name for name in ("float.onnx", "compiled.onnx", "data.npz")]
    compile_model(*paths[:2], CompileConfig(bits=4, lowering=lowering), calibration=paths[2])
    compiled = ir.load(paths[1])
    assert compiled.graph.opset_imports[""] == opset
    assert compiled.ir_version >= version
    before, after = (Session(path, "model").run(form.feed())[0] for path in paths[:2])
    assert np.linalg.norm(after - before) < 0.2 * np.linalg.norm(before)


def test_what_a_user_wrote_into_the_model_stays(tmp_path: Path) -> None:
    form = FORMS["transA, transB, alpha and beta"]
    model = form.model()
    x, y = model.graph.inputs[0], model.graph.outputs[0]
    y.shape = ir.Shape(["batch", "classes"])
    model.graph.name, model.graph.doc_string = "network", "what it does"
    x.doc_string, y.metadata_props["unit"] = "an input", "volts"
    model.metadata_props["author"] = "somebody"
    model.producer_name, model.doc_string = "exporter", "the model"
    model.graph[0].doc_string, model.graph[1].doc_string = "a node that stays", "a layer"
    proto = ir.to_proto(model)
    annotation = proto.graph.quantization_annotation.add(tensor_name="y")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="b")
    model = ir.from_proto(proto)
    ir.save(model, tmp_path / "float.onnx")
    np.savez(tmp_path / "data.npz", **form.feed())
    paths = [tmp_path / name for name in ("float.onnx", "compiled.onnx")]
    compile_model(*paths, CompileConfig(bits=4), calibration=tmp_path / "data.npz")
    compiled = ir.load(paths[1])
    (x, y), graph = (compiled.graph.inputs[0], compiled.graph.outputs[0]), compiled.graph
    assert (graph.name, graph.doc_string) == ("network", "what it does")
    assert (compiled.producer_name, compiled.doc_string) == ("exporter", "the model")
    assert compiled.metadata_props["author"] == "somebody"
    assert (x.name, str(x.shape), x.doc_string) == ("x", "[N,64]", "an input")
    assert (y.name, str(y.shape), y.metadata_props) == ("y", "[batch,classes]", {"unit": "volts"})
    assert graph[0].doc_string == "a node that stays"
    assert [node.doc_string for node in graph if node.domain == DOMAIN] == ["a layer"]
    assert ir.to_proto(compiled).graph.quantization_annotation[0] == annotation


def test_model_that_onnx_runtime_has_no_kernel_for_is_refused(tmp_path: Path) -> None:
    model = model_from_text(
        f"{HEADER} g (bfloat16[N, 64] x) => (bfloat16[N, 48] y) {{ y = MatMul(x, w) }}",
        w=draw(64, 48).astype(ml_dtypes.bfloat16),
    )
    ir.save(model, tmp_path / "float.onnx")
    with pytest.raises(ModelError, match="no kernel"):
        compile_model(tmp_path / "float.onnx", tmp_path / "compiled.onnx")
    assert not (tmp_path / "compiled.onnx").exists()
