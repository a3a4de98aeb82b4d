from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from fqonnx.passes.split import Segment, split
from fqonnx.session import Session
from support import model_from_text

HEADER = '<ir_version: 10, opset_import: ["": 20, "fqonnx": 1]>'
BYTES = 4 * 8 * 8  # of a weight


def model_of(nodes: str, *, results: str = "y", weights: int = 4, dtype: type = np.float32):
    element = "float" if dtype is np.float32 else "float16"
    declared = ", ".join(f"{element}[N, 8] {name}" for name in results.split())
    draw = np.random.default_rng(0).standard_normal
    return model_from_text(
        f"{HEADER} g ({element}[N, 8] x) => ({declared}) {{ {nodes} }}",
        **{f"w{i}": draw((8, 8)).astype(dtype) for i in range(weights)},
    )


def cut(model: ir.Model, most_bytes: int, outputs: str = "y") -> list[Segment]:
    return split(model, most_bytes, outputs.split())


CHAIN = "a = MatMul(x, w0) b = Relu(a) c = MatMul(b, w1) d = Relu(c) e = MatMul(d, w2) y = Relu(e)"


def test_a_model_that_fits_is_whole() -> None:
    (segment,) = cut(model_of(CHAIN), 3 * BYTES)
    assert (segment.inputs, segment.outputs) == (("x",), ("y",))
    assert set(segment.values) == {*"abcdey"}


def test_cuts_by_bytes() -> None:
    first, second = cut(model_of(CHAIN), 2 * BYTES)
    assert (first.inputs, first.outputs) == (("x",), ("d",))
    assert (second.inputs, second.outputs) == (("x", "d"), ("y",))
    assert len(cut(model_of(CHAIN), 1)) == 3  # a node has what it has


def test_float16_counts_as_float32() -> None:
    assert len(cut(model_of(CHAIN, dtype=np.float16), 3 * BYTES)) == 1
    assert len(cut(model_of(CHAIN, dtype=np.float16), 3 * BYTES - 1)) == 2


def test_cuts_where_it_is_narrow() -> None:
    model = model_of(
        """a = MatMul(x, w0) b = MatMul(a, w1) p = Relu(b) q = Neg(b) r = MatMul(p, w2)
        s = Add(q, r) y = MatMul(s, w3)"""
    )
    first, _ = cut(model, 3 * BYTES)
    assert first.outputs == ("s",)
    first, *_ = cut(model, 2 * BYTES)
    assert first.outputs == ("b",)


def test_a_shared_weight_counts_once_in_a_segment() -> None:
    nodes = "a = MatMul(x, w0) b = MatMul(a, w0) y = MatMul(b, w0)"
    assert len(cut(model_of(nodes), BYTES)) == 1


def test_what_depends_on_constants_alone_goes_with_its_readers() -> None:
    model = model_of("t = Transpose(w0) a = MatMul(x, t) b = MatMul(a, w1) y = MatMul(b, t)")
    segments = cut(model, BYTES)
    assert [segment.outputs for segment in segments] == [("a",), ("b",), ("y",)]
    for segment in (segments[0], segments[-1]):
        part = segment.extract(model, segment.outputs)
        assert [node.op_type for node in part.graph] == ["Transpose", "MatMul"]
        assert list(part.graph.initializers) == ["w0"]


def test_random_numbers_are_drawn_once() -> None:
    model = model_of(
        """r = RandomNormal <shape = [1, 8]> () a = Add(x, r) b = MatMul(a, w0)
        c = MatMul(b, w1) y = Add(c, r)"""
    )
    first, second = cut(model, BYTES)
    assert "r" in first.outputs
    assert "r" in second.inputs


def test_no_cut_through_a_sequence() -> None:
    model = model_of(
        """a = MatMul(x, w0) s = SequenceConstruct(a, x) b = MatMul(a, w1)
        i = Constant <value_int = 0> () c = SequenceAt(s, i) y = Add(b, c)"""
    )
    assert [segment.outputs for segment in cut(model, 1)] == [("a",), ("y",)]


def test_outputs_that_no_node_makes() -> None:
    model = model_of("a = MatMul(x, w0) y = MatMul(a, w1) k = Identity(w2)", results="y k")
    first, last = cut(model, 1, "y k x")
    assert first.outputs == ("a",)
    assert last.outputs == ("y", "k")


def test_a_graph_without_activations() -> None:
    model = model_of("y = Identity(w0)")
    (segment,) = cut(model, 1)
    assert segment.outputs == ("y",)


def test_only_what_is_asked_for_goes_on() -> None:
    model = model_of("a = MatMul(x, w0) y = MatMul(a, w1) z = Relu(a)", results="y z")
    assert [segment.outputs for segment in cut(model, 1, "y")] == [("a",), ("y",)]
    assert [segment.outputs for segment in split(model, 1, ())] == [("a",), ()]


def test_values_of_subgraphs_name_the_node_that_they_are_in() -> None:
    model = model_of(
        """c = Constant <value = bool {1}> ()
        y = If (c) <then_branch = t () => (float[N, 8] p) { u = Relu(x) p = Neg(u) },
                    else_branch = e () => (float[N, 8] q) { q = Identity(x) }>"""
    )
    (segment,) = cut(model, 1)
    assert dict(segment.values) == dict.fromkeys(["y", "u", "p", "q"], "y")
    part = segment.extract(model, ["y"])
    x = np.ones((2, 8), np.float32)
    np.testing.assert_array_equal(Session(part, "part").run({"x": x})[0], -x)


@pytest.mark.parametrize(("codebook", "bytes_a_weight"), [("scalar", 4), ("trellis", 24)])
def test_packed_weights_count_as_unpacked(codebook: str, bytes_a_weight: int) -> None:
    model = model_of(
        " ".join(
            f"""{y} = fqonnx.FrameMatMul <num_vectors_in = 8, num_vectors_out = 8,
                codebook = "{codebook}"> ({x}, w0)"""
            for x, y in ("xa", "ay")
        )
    )
    weight = 64 * bytes_a_weight
    assert len(cut(model, BYTES + 2 * weight)) == 1
    assert len(cut(model, BYTES + 2 * weight - 1)) == 2
