from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fqonnx.calibrate import synthetic_samples
from fqonnx.calibrate.synthetic import table_rows
from fqonnx.errors import DataError
from fqonnx.session import InputInfo, Session
from support import model_from_text

TABLE = np.zeros((1000, 8), np.float32)


def info(name: str, dtype: Any, *shape: int | str | None) -> InputInfo:
    return InputInfo(name, np.dtype(dtype), shape)


def graph(inputs: str, nodes: str, output: str = "float[A, B, C] y") -> str:
    return f"""
        <ir_version: 10, opset_import: ["": 21]>
        main ({inputs}) => ({output}) {{ {nodes} }}
    """


def embedding(nodes: str = "y = Gather (table, ids)", **tables: np.ndarray) -> ir.Model:
    text = graph("int64[batch, length] ids", nodes)
    tables = tables or {"table": TABLE}
    declared = ", ".join(f"{array_type(a)} {name}" for name, a in tables.items())
    text = text.replace(") {", f") <{declared}> {{") if declared else text
    return model_from_text(text, **tables)


def array_type(array: np.ndarray) -> str:
    kind = {"float32": "float", "int64": "int64"}[array.dtype.name]
    return f"{kind}[{', '.join(map(str, array.shape))}]"


def any_model() -> ir.Model:
    return model_from_text(graph("float[N, 4] x", "y = Relu (x)", "float[N, 4] y"))


def ids_of(model: ir.Model, **options: Any) -> np.ndarray:
    inputs = [info("ids", np.int64, "batch", "length")]
    samples = synthetic_samples(model, inputs, **options)
    return np.concatenate([feed["ids"] for feed in samples.feeds])


def only(model: ir.Model, value: InputInfo, **options: Any) -> np.ndarray:
    samples = synthetic_samples(model, [value], **options)
    return np.concatenate([feed[value.name] for feed in samples.feeds])


SHAPE = np.array([-1], np.int64)


@pytest.mark.parametrize(
    "nodes",
    [
        "y = Gather (table, ids)",
        "y = Gather <axis = 0> (table, ids)",
        "a = Cast <to = 6> (ids) y = Gather (table, a)",
        "a = Reshape (ids, shape) y = Gather (table, a)",
        "a = Identity (ids) b = Flatten (a) c = Cast <to = 6> (b) y = Gather (table, c)",
        "a = Transpose (ids) y = Gather (table, a)",
        "other = Cast <to = 1> (ids) y = Gather (table, ids)",
        "y = Gather (table, ids) other = Cast <to = 1> (ids)",
    ],
)
def test_token_ids_are_those_of_the_table(nodes: str) -> None:
    ids = ids_of(embedding(nodes, table=TABLE, shape=SHAPE))
    assert ids.min() >= 0
    assert ids.max() < 1000
    assert ids.max() > 950
    assert ids.min() < 50
    assert abs(ids.mean() - 499.5) < 25
    assert len(np.unique(ids)) > 900


def test_the_axis_of_the_gather_counts() -> None:
    model = embedding("y = Gather <axis = 1> (table, ids)", table=np.zeros((8, 300), np.float32))
    assert 270 < ids_of(model).max() < 300
    model = embedding("y = Gather <axis = -1> (table, ids)", table=np.zeros((8, 300), np.float32))
    assert 270 < ids_of(model).max() < 300


@pytest.mark.parametrize(
    ("nodes", "table"),
    [
        ("y = Gather (row, ids)", np.zeros(1000, np.float32)),  # no embedding: a list of numbers
        ("a = Cast <to = 1> (ids) y = Add (a, row)", np.zeros(1000, np.float32)),
        ("a = Add (ids, ids) y = Gather (row, a)", np.zeros((1000, 8), np.float32)),
    ],
)
def test_ids_that_index_no_table_stay_small(nodes: str, table: np.ndarray) -> None:
    model = embedding(nodes, row=table)
    ids = next(value for value in model.graph.inputs if value.name == "ids")
    assert table_rows(ids) is None
    assert set(np.unique(ids_of(model))) == {0, 1}


def test_a_value_that_is_gathered_from_is_no_index() -> None:
    model = model_from_text(
        graph("int64[N, M] ids, int64[K] index", "y = Gather (ids, index)", "int64[K, M] y")
    )
    assert all(table_rows(value) is None for value in model.graph.inputs)


def test_a_table_that_is_computed_says_nothing() -> None:
    model = model_from_text(
        graph("int64[N, M] ids, float[K, 8] x", "t = Relu (x) y = Gather (t, ids)")
    )
    assert all(table_rows(value) is None for value in model.graph.inputs)


def test_ids_run_through_the_model() -> None:
    model = embedding()
    session = Session(model, "model")
    samples = synthetic_samples(model, session.inputs, num_samples=20)
    for feed in samples.feeds:
        (y,) = session.run(feed)
        assert y.shape == (16, 64, 8)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.float32, np.bool_])
@pytest.mark.parametrize("name", ["attention_mask", "mask", "Input_Mask"])
def test_masks_are_ones(dtype: type, name: str) -> None:
    mask = only(any_model(), info(name, dtype, "batch", "length"))
    assert mask.dtype == dtype
    assert (mask == 1).all()


def test_an_additive_mask_is_zero() -> None:
    mask = only(any_model(), info("attention_mask", np.float32, "batch", 1, "length", "length"))
    assert mask.shape[1:] == (1, 64, 64)
    assert (mask == 0).all()


def test_any_boolean_is_true() -> None:
    assert only(any_model(), info("use_cache", np.bool_, "batch")).all()


@pytest.mark.parametrize("name", ["token_type_ids", "segment_ids", "type_ids"])
def test_segments_are_zero(name: str) -> None:
    ids = only(any_model(), info(name, np.int64, "batch", "length"))
    assert ids.dtype == np.int64
    assert ids.shape[1:] == (64,)
    assert (ids == 0).all()


def test_positions_ascend() -> None:
    ids = only(any_model(), info("position_ids", np.int64, "batch", "length"))
    assert np.array_equal(ids, np.broadcast_to(np.arange(64), ids.shape))


def test_the_cache_is_empty_and_its_mask_is_not() -> None:
    cache = info("past_key_values.0.key", np.float32, "batch", 4, "past_sequence_length", 16)
    mask = info("attention_mask", np.int64, "batch", "past_sequence_length + sequence_length")
    (feed, *_) = synthetic_samples(any_model(), [cache, mask]).feeds
    assert feed[cache.name].shape == (16, 4, 0, 16)
    assert feed[mask.name].shape == (16, 64)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_standard_normal(dtype: type) -> None:
    x = only(any_model(), info("pixels", dtype, "batch", 3, 20, 20))
    assert x.dtype == dtype
    assert abs(x.astype(np.float64).mean()) < 0.02
    assert x.astype(np.float64).std() == pytest.approx(1, abs=0.02)
    assert not np.array_equal(x[0], x[1])


def test_bytes_use_their_whole_range() -> None:
    image = only(any_model(), info("image", np.uint8, "batch", 20, 20, 3))
    assert image.dtype == np.uint8
    assert (image.min(), image.max()) == (0, 255)


def test_open_axes() -> None:
    x = only(any_model(), info("x", np.float32, None, "length", 5, None), num_samples=1)
    assert x.shape == (16, 64, 5, 64)


def test_an_input_without_axes() -> None:
    (feed, *_) = synthetic_samples(any_model(), [info("scale", np.float32)]).feeds
    assert feed["scale"].shape == ()
    assert feed["scale"].dtype == np.float32


@pytest.mark.parametrize(
    ("batch", "num_samples", "feeds"),
    [("batch", 96, 6), ("batch", 1, 1), ("batch", 17, 2), (1, 3, 3), (4, 10, 3), (100, 96, 1)],
)
def test_batches(batch: int | str, num_samples: int, feeds: int) -> None:
    samples = synthetic_samples(
        any_model(), [info("x", np.float32, batch, 4)], num_samples=num_samples
    )
    size = batch if isinstance(batch, int) else 16
    assert [feed["x"].shape for feed in samples.feeds] == [(size, 4)] * feeds
    assert samples.num_samples == size * feeds
    assert samples.num_samples >= num_samples


def test_every_input_is_fed_and_the_source_is_told() -> None:
    inputs = [info("x", np.float32, "n", 4), info("ids", np.int64, "n", "length")]
    samples = synthetic_samples(any_model(), inputs)
    assert all(set(feed) == {"x", "ids"} for feed in samples.feeds)
    assert samples.source == "synthetic"
    assert not samples.is_real


def test_the_seed_decides() -> None:
    inputs = [info("ids", np.int64, "n", "length"), info("x", np.float32, "n", 4)]
    model = embedding()
    first, again, other = (synthetic_samples(model, inputs, seed=seed) for seed in (3, 3, 4))
    for one, two in zip(first.feeds, again.feeds, strict=True):
        assert all(np.array_equal(one[name], two[name]) for name in one)
    assert first.digest == again.digest
    assert first.digest != other.digest


def test_the_default_seed_is_a_seed() -> None:
    assert np.array_equal(ids_of(embedding()), ids_of(embedding(), seed=0))


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    synthetic_samples(embedding(), [info("x", np.float32, "n", 4)])
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_input_without_a_shape_is_refused() -> None:
    with pytest.raises(DataError, match=r"'x': the model does not say what shape it has"):
        only(any_model(), InputInfo("x", np.dtype(np.float32), (), has_rank=False))


def test_input_that_would_fill_the_memory_is_refused() -> None:
    with pytest.raises(DataError, match=r"'x': synthetic samples of its shape .* too much memory"):
        only(any_model(), info("x", np.float32, 1 << 40, 4))
