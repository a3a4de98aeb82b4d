from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fqonnx.calibrate import Samples, load_samples
from fqonnx.calibrate.sample_files import data_files
from fqonnx.errors import DataError
from fqonnx.session import InputInfo

X = InputInfo("x", np.dtype(np.float32), ("batch", 3))
IDS = InputInfo("ids", np.dtype(np.int64), ("batch", "length"))


def written(folder: Path, *arrays: np.ndarray, names: tuple[str, ...] = ()) -> Path:
    """Write inputs as the ONNX project does, and an output beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, array in enumerate(arrays):
        tensor = onnx.numpy_helper.from_array(array, names[i] if names else None)
        (folder / f"input_{i}.pb").write_bytes(tensor.SerializeToString())
    (folder / "output_0.pb").write_bytes(b"not looked at")
    return folder


def batch(count: int, first: int = 0) -> np.ndarray:
    return np.full((count, 3), first, np.float32)


def seen(samples: Samples) -> list[int]:
    return [int(row[0]) for feed in samples.feeds for row in feed["x"]]


def refused(path: Path, *inputs: InputInfo, part: Any = "all") -> DataError:
    with pytest.raises(DataError) as caught:
        load_samples(path, inputs, part)
    assert caught.value.where.startswith(str(path))
    assert caught.value.hint
    return caught.value


def test_each_set_of_a_folder_is_a_batch(tmp_path: Path) -> None:
    for i, count in ((0, 2), (2, 5), (10, 1)):
        written(tmp_path / f"test_data_set_{i}", batch(count, i))
    (tmp_path / "model.onnx").write_bytes(b"")
    samples = load_samples(tmp_path, [X])
    assert (samples.source, samples.num_samples, samples.is_real) == ("directory", 8, True)
    assert seen(samples) == [0, 0, 2, 2, 2, 2, 2, 10]


def test_one_set(tmp_path: Path) -> None:
    folder = written(tmp_path / "test_data_set_0", batch(2, 7))
    assert seen(load_samples(folder, [X])) == [7, 7]
    assert seen(load_samples(folder.rename(tmp_path / "other"), [X])) == [7, 7]


@pytest.mark.parametrize("part", ["calibration", "held-back"])
def test_sets_are_split(part: Any, tmp_path: Path) -> None:
    for i in range(17):
        written(tmp_path / f"test_data_set_{i}", batch(1, i))
    held = [7, 15]
    wanted = held if part == "held-back" else [i for i in range(17) if i not in held]
    assert seen(load_samples(tmp_path, [X], part)) == wanted


@pytest.mark.parametrize("names", [(), ("x", "ids")])
def test_inputs_in_the_order_of_the_graph(names: tuple[str, ...], tmp_path: Path) -> None:
    ids = np.arange(4).reshape(2, 2)
    folder = written(tmp_path / "test_data_set_0", batch(2), ids, names=names)
    (feed,) = load_samples(folder, [X, IDS]).feeds
    assert np.array_equal(feed["ids"], ids)
    assert feed["x"].dtype == np.float32


def test_names_inside_come_first(tmp_path: Path) -> None:
    ids = np.arange(4).reshape(2, 2)
    folder = written(tmp_path / "test_data_set_0", ids, batch(2), names=("ids", "x"))
    assert np.array_equal(load_samples(folder, [X, IDS]).feeds[0]["ids"], ids)


def test_more_than_ten_inputs(tmp_path: Path) -> None:
    infos = [InputInfo(f"v{i}", np.dtype(np.float32), (None, 3)) for i in range(12)]
    folder = written(tmp_path / "test_data_set_0", *[batch(2, i) for i in range(12)])
    (feed,) = load_samples(folder, infos).feeds
    assert [feed[f"v{i}"][0, 0] for i in range(12)] == list(range(12))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.bool_])
def test_types_are_cast_as_those_of_npz(dtype: type, tmp_path: Path) -> None:
    folder = written(tmp_path / "test_data_set_0", np.ones((2, 3), dtype))
    assert load_samples(folder, [X]).feeds[0]["x"].dtype == np.float32


def test_npz_files_come_before_sets(tmp_path: Path) -> None:
    written(tmp_path / "test_data_set_0", batch(2, 1))
    np.savez(tmp_path / "0.npz", x=batch(3, 2))
    assert seen(load_samples(tmp_path, [X])) == [2, 2, 2]


def test_digest_is_that_of_the_same_arrays(tmp_path: Path) -> None:
    written(tmp_path / "sets" / "test_data_set_0", batch(2, 1))
    (tmp_path / "npz").mkdir()
    np.savez(tmp_path / "npz" / "0.npz", x=batch(2, 1))
    first, second = (load_samples(tmp_path / name, [X]) for name in ("sets", "npz"))
    assert first.digest == second.digest


def test_files_that_samples_are_read_from(tmp_path: Path) -> None:
    first = written(tmp_path / "test_data_set_0", batch(2), batch(2))
    second = written(tmp_path / "test_data_set_1", batch(2))
    inputs = [first / "input_0.pb", first / "input_1.pb", second / "input_0.pb"]
    assert data_files(tmp_path) == inputs
    assert data_files(first) == inputs[:2]
    np.savez(tmp_path / "0.npz", x=batch(2))
    assert data_files(tmp_path) == [tmp_path / "0.npz"]
    assert data_files(tmp_path / "0.npz") == [tmp_path / "0.npz"]


# Mistakes


def test_a_set_without_inputs_is_none(tmp_path: Path) -> None:
    written(tmp_path / "test_data_set_0")
    for path in (tmp_path, tmp_path / "test_data_set_0"):
        found = "the folder holds no .npz file and no test_data_set_*/input_0.pb"
        assert refused(path, X).found == found
    with pytest.raises(DataError):
        data_files(tmp_path)


def test_shapes_and_types_are_checked(tmp_path: Path) -> None:
    folder = written(tmp_path / "test_data_set_0", np.zeros((2, 4), np.float32))
    error = refused(tmp_path, X)
    assert error.where == f"{folder}, array 'x'"
    assert "found shape (2, 4), the model takes (batch, 3)" in error.found
    written(folder, np.zeros((2, 3), np.complex64))
    assert refused(tmp_path, X).found == "found complex64, the model takes float32"
    written(folder, np.full((2, 3), np.nan, np.float32))
    assert "NaN" in refused(tmp_path, X).found
    written(folder, np.array([["a", "b", "c"]]))
    assert refused(tmp_path, X).where == f"{folder}, array 'x'"
    written(folder, batch(0))
    assert refused(tmp_path, X).found == "a batch in it holds no samples"


def test_missing_inputs(tmp_path: Path) -> None:
    folder = written(tmp_path / "test_data_set_0", batch(2))
    error = refused(folder, X, IDS)
    assert error.found == "no array named ids; it holds x"
    written(folder, batch(2), names=("z",))
    assert refused(folder, X).found == "no array named x; it holds z"


def test_more_inputs_than_the_model_has(tmp_path: Path) -> None:
    folder = written(tmp_path / "test_data_set_0", batch(2), batch(2))
    error = refused(folder, X)
    assert error.where == str(folder / "input_1.pb")
    assert error.found == "the model has 1 inputs, and this is number 1"


def test_data_in_another_file_are_not_followed(tmp_path: Path) -> None:
    folder = written(tmp_path / "test_data_set_0", batch(2))
    tensor = onnx.numpy_helper.from_array(batch(2), "x")
    onnx.external_data_helper.set_external_data(tensor, "../secret")
    tensor.ClearField("raw_data")
    (folder / "input_0.pb").write_bytes(tensor.SerializeToString())
    assert refused(folder, X).found.endswith("its data are in another file")


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    folder = written(tmp_path / "test_data_set_0", batch(2), names=("x",))
    content = (folder / "input_0.pb").read_bytes()
    (folder / "input_0.pb").write_bytes(content.replace(b"x", b"\x80", 1))
    assert refused(folder, X).found.endswith("its name is no text")


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    flips=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4),
    cut=st.none() | st.integers(0, 60),
)
def test_damage_is_a_data_error_or_harmless(
    tmp_path: Path, flips: list[tuple[int, int]], cut: int | None
) -> None:
    content = bytearray(onnx.numpy_helper.from_array(batch(2, 3), "x").SerializeToString())
    for position, byte in flips:
        content[position % len(content)] = byte
    folder = written(tmp_path / "test_data_set_0", batch(2))
    (folder / "input_0.pb").write_bytes(content[:cut])
    try:
        samples = load_samples(folder, [X])
    except DataError:
        return
    assert samples.feeds[0]["x"].shape[1] == 3
