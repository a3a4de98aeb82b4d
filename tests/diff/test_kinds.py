import numpy as np
import onnx_ir as ir
import pytest

from fqonnx.diff import OutputKind, output_kinds
from fqonnx.errors import ConfigError
from support import model_from_text

NUMBERS, CLASSES = OutputKind("numbers"), OutputKind("classes")
HEAD = '<ir_version: 10, opset_import: ["": 20]> g'


def table(rows: int) -> np.ndarray:
    return np.zeros((rows, 4), np.float32)


def graph(signature: str, *nodes: str, **tables: np.ndarray) -> ir.Model:
    """Return a graph of inputs => outputs."""
    return model_from_text(f"{HEAD} {signature} {{ {' '.join(nodes)} }}", **tables)


def language_model(lookup: str, ids: str = "int64[B, L] ids", rows: int = 9) -> ir.Model:
    """Return a graph that makes h of ids, and logits of 9 words of h."""
    nodes = (lookup, "y = MatMul(h, head)")
    head = np.zeros((4, 9), np.float32)
    return graph(f"({ids}) => (float[B, L, 9] y)", *nodes, words=table(rows), head=head)


@pytest.mark.parametrize(
    "lookup",
    [
        "h = Gather(words, ids)",
        "h = Gather <axis = 0> (words, ids)",
        "i = Cast <to = 6> (ids) h = Gather(words, i)",
        "i = Cast <to = 6> (ids) j = Identity(i) h = Gather(words, j)",
        "s = Shape(ids) i = Reshape(ids, s) h = Gather(words, i)",
    ],
)
def test_logits_of_the_ids_that_are_looked_up(lookup: str) -> None:
    assert output_kinds(language_model(lookup)) == {"y": OutputKind("tokens", "ids")}
    narrow = language_model(lookup, "int32[B, L] ids")
    assert output_kinds(narrow) == {"y": OutputKind("tokens", "ids")}


def test_the_table_may_be_a_node() -> None:
    nodes = "words = Constant <value = float[3, 1] {1, 2, 3}> () y = Gather(words, ids)"
    model = graph("(int64[B, L] ids) => (float[B, L, 3] y)", nodes)
    assert output_kinds(model) == {"y": OutputKind("tokens", "ids")}


@pytest.mark.parametrize(
    ("lookup", "ids"),
    [
        ("i = Add(ids, ids) h = Gather(words, i)", "int64[B, L] ids"),
        ("i = Cast <to = 7> (ids) h = Gather(words, i)", "float[B, L] ids"),
        ("h = Gather(words, ids)", "int64[L] ids"),
        ("h = Gather <axis = 1> (words, ids)", "int64[B, L] ids"),
        ("h = Gather(given, ids)", "int64[B, L] ids, float[9, 4] given"),
    ],
)
def test_other_lookups_are_of_no_tokens(lookup: str, ids: str) -> None:
    model = language_model(lookup, ids)
    assert output_kinds(model) == {"y": NUMBERS}
    with pytest.raises(ConfigError, match="--kind y=tokens: the model looks up no ids"):
        output_kinds(model, {"y": "tokens"})


def test_the_vocabulary_is_the_largest_table() -> None:
    inputs = "(int64[B, L] types, int64[B, L] ids, int64[B, L] places)"
    nodes = "h = Gather(a, types) i = Gather(b, ids) j = Gather(c, places)"
    tables = {"a": table(2), "b": table(30), "c": table(8)}
    model = graph(f"{inputs} => (float[B, L, 8] hidden, float[B, L, 30] y)", nodes, **tables)
    assert output_kinds(model) == {"hidden": NUMBERS, "y": OutputKind("tokens", "ids")}
    assert output_kinds(model, {"hidden": "tokens"})["hidden"] == OutputKind("tokens", "ids")


def test_of_two_readers_of_a_table_the_one_of_the_same_axes() -> None:
    inputs = "(int64[B, L] ids, int64[B, M] decoder_ids)"
    nodes = "h = Gather(words, ids) y = Gather(words, decoder_ids)"
    model = graph(f"{inputs} => (float[B, M, 9] y)", nodes, words=table(9))
    assert output_kinds(model) == {"y": OutputKind("tokens", "decoder_ids")}
    other = graph(f"{inputs} => (float[B, N, 9] y)", nodes, words=table(9))
    assert output_kinds(other) == {"y": OutputKind("tokens", "ids")}


def test_a_vocabulary_of_other_rows_is_told() -> None:
    model = language_model("h = Gather(words, ids)", rows=16)
    assert output_kinds(model) == {"y": NUMBERS}
    assert output_kinds(model, {"y": "tokens"}) == {"y": OutputKind("tokens", "ids")}


@pytest.mark.parametrize("softmax", ["Softmax", "LogSoftmax"])
def test_classes_by_softmax(softmax: str) -> None:
    model = graph("(float[B, 5] x) => (float[B, 5] y)", f"y = {softmax}(x)")
    assert output_kinds(model) == {"y": CLASSES}


@pytest.mark.parametrize(
    "name",
    ["logits", "Logit", "probs", "probabilities", "scores", "class_logits_2", "classes", "prob1"],
)
def test_classes_by_name(name: str) -> None:
    model = graph(f"(float[B, 5] x) => (float[B, 5] {name})", f"{name} = Relu(x)")
    assert output_kinds(model) == {name: CLASSES}


@pytest.mark.parametrize("shape", ["B", "B, 1", "B, N", "B, 3, 5", ""])
def test_scores_of_other_axes_are_numbers(shape: str) -> None:
    typed = f"float[{shape}]" if shape else "float"
    model = graph(f"({typed} x) => ({typed} logits)", "logits = Softmax(x)")
    assert output_kinds(model) == {"logits": NUMBERS}


@pytest.mark.parametrize("name", ["y", "embedding", "logits_of_x", "classifier"])
def test_anything_else_is_numbers(name: str) -> None:
    model = graph(f"(float[B, 5] x) => (float[B, 5] {name})", f"{name} = Relu(x)")
    assert output_kinds(model) == {name: NUMBERS}


def test_an_output_that_is_an_input() -> None:
    model = graph("(float[B, 5] x) => (float[B, 5] x)")
    assert output_kinds(model) == {"x": NUMBERS}


def test_what_a_user_says_wins() -> None:
    model = graph("(float[B, 5] x) => (float[B, 5] y, float[B, 5] z)", "y = Softmax(x) z = Relu(x)")
    told = output_kinds(model, {"y": "numbers", "z": "classes"})
    assert told == {"y": NUMBERS, "z": CLASSES}
    unknown = graph("(float x) => (float y)", "y = Relu(x)")
    unknown.graph.outputs[0].shape = None
    assert output_kinds(unknown, {"y": "classes"}) == {"y": CLASSES}


def test_what_a_user_says_must_fit() -> None:
    model = graph("(float[B, 5] x) => (float[B, 5, 2] y)", "y = Relu(x)")
    with pytest.raises(ConfigError, match="--kind z=classes: there is no such output, only y"):
        output_kinds(model, {"z": "classes"})
    with pytest.raises(ConfigError, match="the output has 3 axes, expected 2"):
        output_kinds(model, {"y": "classes"})
    flat = graph("(float[B, 5] x) => (float[B, 5] y)", "y = Relu(x)")
    with pytest.raises(ConfigError, match="the output has 2 axes, expected 3"):
        output_kinds(flat, {"y": "tokens"})
