from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fqonnx.diff import Kind, OutputDiff, OutputKind, compare_models
from fqonnx.errors import ConfigError, DataError, ModelError
from fqonnx.session import Feed, Session
from support import model_from_text

PLAIN = "(float[N, 3] x) => (float[N, 3] y) { y = Identity(x) }"
OTHER = "(float[N, 3] x) => (float[N, 3] y) { y = Neg(x) }"


def session(graph: str) -> Session:
    return Session(model_from_text(f'<ir_version: 10, opset_import: ["": 20]> g {graph}'), "g")


def compared(
    first: str, second: str, *feeds: Feed, kind: Kind = "numbers", **options: Any
) -> OutputDiff:
    expected = session(first)
    kinds = {name: OutputKind(kind) for name in expected.output_names}
    path = Path("compiled.onnx")
    (found,) = compare_models(
        expected, session(second), feeds, compiled_path=path, kinds=kinds, **options
    )
    return found


def batch(count: int) -> Feed:
    return {"x": np.eye(3, dtype=np.float32)[np.arange(count) % 3]}


def test_batches_of_different_sizes() -> None:
    found = compared(PLAIN, OTHER, batch(2), batch(5), batch(1))
    assert found.num_samples == 8
    assert found.cosine == pytest.approx(-1.0)


def test_labels_follow_the_batches() -> None:
    labels = np.array([0, 1, 0, 1, 2, 0, 0, 0])
    found = compared(PLAIN, OTHER, batch(2), batch(5), batch(1), kind="classes", labels=labels)
    assert found.classes is not None
    assert found.classes.float_accuracy == 7 / 8


def test_labels_beside_inputs_that_are_no_batch() -> None:
    graph = "(float scale, float[N, 3] x) => (float[N, 3] y) { y = Mul(x, scale) }"
    feeds = [{"scale": np.array(2.0, np.float32), **batch(n)} for n in (2, 1)]
    found = compared(graph, graph, *feeds, kind="classes", labels=np.array([0, 1, 0]))
    assert found.classes is not None
    assert found.classes.compiled_accuracy == 1.0


def test_labels_of_outputs_with_other_rows_are_refused() -> None:
    graph = "(float[N, 3] x) => (float[M, 3] y) { y = Concat <axis = 0> (x, x) }"
    with pytest.raises(DataError, match="2 samples gave 4 rows of scores"):
        compared(graph, graph, batch(2), kind="classes", labels=np.zeros(2, np.int64))


def test_labels_without_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match="--labels: no output is of classes"):
        compared(PLAIN, OTHER, batch(2), labels=np.zeros(2, np.int64))


@pytest.mark.parametrize("kind", ["numbers", "classes"])
def test_an_output_of_one_axis(kind: Kind) -> None:
    nodes = "i = Constant <value_ints = [1]> () y = ReduceSum <keepdims = 0> (x, i)"
    graph = f"(float[N, 3] x) => (float[N] y) {{ {nodes} }}"
    found = compared(graph, graph, batch(3), batch(2), kind=kind)
    assert (found.num_samples, found.kind, found.cosine) == (5, "numbers", pytest.approx(1.0))


def test_a_single_number() -> None:
    graph = "(float[N, 3] x) => (float y) { y = ReduceMax <keepdims = 0> (x) }"
    found = compared(graph, graph, batch(3))
    assert (found.num_samples, found.max_abs_diff) == (1, 0.0)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ("(float[N, 3] z) => (float[N, 3] y) { y = Neg(z) }", "its inputs are z; the float"),
        ("(float[N, 3] x) => (float[N, 3] z) { z = Neg(x) }", "its outputs are z; the float"),
        (
            "(float[N, 3] x) => (float[M, 3] y) { y = Concat <axis = 0> (x, x) }",
            r"output 'y': shapes \(2, 3\) and \(4, 3\)",
        ),
    ],
)
def test_other_models_are_refused(graph: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        compared(PLAIN, graph, batch(2))
