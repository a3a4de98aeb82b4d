import gc
import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fqonnx.calibrate import Samples, load_samples
from fqonnx.errors import DataError
from fqonnx.session import Feed, InputInfo


def info(name: str, dtype: Any, *shape: int | str | None) -> InputInfo:
    return InputInfo(name, np.dtype(dtype), shape)


X = info("x", np.float32, "batch", 3)
IDS = info("ids", np.int64, "batch", "length")


def written(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def numbered(count: int, *inner: int, first: int = 0) -> np.ndarray:
    numbers = np.arange(first, first + count).reshape(count, *[1] * len(inner))
    return np.broadcast_to(numbers, (count, *inner)).astype(np.float32)


def seen(samples: Samples, name: str = "x") -> list[int]:
    return [int(row.flat[0]) for feed in samples.feeds for row in feed[name]]


def refused(path: Path, *inputs: InputInfo, **options: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        load_samples(path, inputs, **options)
    assert caught.value.where.startswith(str(path))
    assert str(caught.value).startswith(str(path))
    assert caught.value.hint
    return caught.value


# Reading


def test_arrays_come_back_in_batches(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    ids = np.arange(200).reshape(40, 5)
    samples = load_samples(written(tmp_path / "d.npz", x=x, ids=ids), [X, IDS])
    assert samples.source == "file"
    assert samples.is_real
    assert samples.num_samples == 40
    assert [len(feed["x"]) for feed in samples.feeds] == [16, 16, 8]
    assert np.array_equal(np.concatenate([feed["x"] for feed in samples.feeds]), x)
    assert np.array_equal(np.concatenate([feed["ids"] for feed in samples.feeds]), ids)


def test_compressed_files_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "d.npz", x=numbered(4, 3))
    assert seen(load_samples(tmp_path / "d.npz", [X])) == [0, 1, 2, 3]


def test_arrays_that_the_model_does_not_take_are_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "d.npz", x=numbered(2, 3), labels=np.array(["a", "b"]))
    assert set(load_samples(path, [X]).feeds[0]) == {"x"}


def test_missing_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere.npz", X).found == "no such file"


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04", b"hello, world", b"\x80\x04."])
def test_a_file_that_is_no_npz(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "d.npz"
    path.write_bytes(content)
    assert "not readable as .npz" in refused(path, X).found


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"PK\x03\x04" + bytes(100), b"PK\x05\x06"])
def test_a_file_that_is_not_readable_is_closed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "d.npz"
    path.write_bytes(content)
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        refused(path, X)
        gc.collect()
    assert not [str(warning.message) for warning in caught]


def test_a_single_array_is_no_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", numbered(4, 3))
    error = refused(tmp_path / "d.npy", X)
    assert "a single array, expected named ones" in error.found
    assert "numpy.savez" in error.hint


@pytest.mark.parametrize("content", [b"x,y\n1,2\n", b"Plain text", b""])
def test_text_is_not_to_be_unpickled(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "d.npz").write_bytes(content)
    found = refused(tmp_path / "d.npz", X).found
    assert found == "not readable as .npz: it is no zip archive"


def test_a_file_cut_short(tmp_path: Path) -> None:
    path = written(tmp_path / "d.npz", x=numbered(100, 3))
    path.write_bytes(path.read_bytes()[:-40])
    assert "not readable as .npz" in refused(path, X).found


def test_a_flipped_bit_in_a_stored_array(tmp_path: Path) -> None:
    path = written(tmp_path / "d.npz", x=numbered(100, 3))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "not readable as .npz" in refused(path, X).found


def test_junk_in_a_compressed_array(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).random((100, 3), np.float32))
    content = bytearray(path.read_bytes())
    content[100:120] = b"\xff" * 20
    path.write_bytes(content)
    assert "not readable as .npz" in refused(path, X).found


def test_an_encrypted_archive(tmp_path: Path) -> None:
    path = written(tmp_path / "d.npz", x=numbered(4, 3))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    content[6] |= 1
    path.write_bytes(content)
    assert "not readable as .npz" in refused(path, X).found


def test_a_member_that_is_no_array(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", b"just bytes")
    refused(path, X)


def test_an_array_of_a_shape_beyond_all_memory(tmp_path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000, 3)}\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", content)
    assert "Unable to allocate" in refused(tmp_path / "d.npz", X).found


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    path = written(tmp_path / "d.npz", x=np.array([{}, []], dtype=object))
    assert "not readable as .npz" in refused(path, X).found


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    compressed=st.booleans(),
    flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.none() | st.integers(0, 700),
)
def test_damage_is_a_data_error_or_harmless(
    tmp_path: Path, compressed: bool, flips: list[tuple[int, int]], cut: int | None
) -> None:
    buffer = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(buffer, x=np.random.default_rng(0).random((9, 3), np.float32))
    content = bytearray(buffer.getvalue())
    for position, byte in flips:
        content[position % len(content)] = byte
    path = tmp_path / "d.npz"
    path.write_bytes(content[:cut])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy and zipfile may warn about what they still read
        try:
            samples = load_samples(path, [X])
        except DataError:
            return
    assert samples.num_samples == 9


# Names, types, shapes


def test_missing_names(tmp_path: Path) -> None:
    path = written(tmp_path / "d.npz", input_x=numbered(2, 3), labels=numbered(2))
    error = refused(path, X, IDS)
    assert error.found == "no array named x, ids; it holds input_x, labels"


def test_an_archive_of_nothing(tmp_path: Path) -> None:
    assert "it holds none" in refused(written(tmp_path / "d.npz"), X).found


@pytest.mark.parametrize(
    ("given_dtype", "taken"),
    [
        (np.float64, np.float32),
        (np.float32, np.float16),
        (np.float16, np.float32),
        (np.int32, np.int64),
        (np.int64, np.int32),
        (np.uint8, np.int64),
        (np.int64, np.float32),
        (np.bool_, np.int64),
        (np.bool_, np.float32),
        (np.float32, np.float32),
    ],
)
def test_casts_that_keep_the_values(tmp_path: Path, given_dtype: type, taken: type) -> None:
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(given_dtype)
    samples = load_samples(written(tmp_path / "d.npz", x=array), [info("x", taken, "n", 3)])
    assert samples.feeds[0]["x"].dtype == taken
    assert np.array_equal(samples.feeds[0]["x"], array.astype(taken))


@pytest.mark.parametrize(
    ("given_dtype", "taken"),
    [
        (np.float32, np.int64),
        (np.float32, np.bool_),
        (np.int64, np.bool_),
        (np.int64, np.uint8),
        (np.complex64, np.float32),
        (np.dtype("U1"), np.float32),
        (np.dtype("U1"), np.int64),
    ],
)
def test_casts_that_lose_are_refused(tmp_path: Path, given_dtype: Any, taken: type) -> None:
    path = written(tmp_path / "d.npz", x=np.zeros((2, 3), given_dtype))
    error = refused(path, info("x", taken, "n", 3))
    assert error.where == f"{path}, array 'x'"
    assert error.found == f"found {np.dtype(given_dtype)}, the model takes {np.dtype(taken)}"


@pytest.mark.parametrize(
    ("array", "taken"),
    [
        (np.array([[2**40]]), np.int32),
        (np.array([[-(2**31) - 1]]), np.int32),
        (np.array([[200]], np.int16), np.int8),
    ],
)
def test_integers_that_do_not_fit_are_refused(
    tmp_path: Path, array: np.ndarray, taken: type
) -> None:
    path = written(tmp_path / "d.npz", x=array)
    assert refused(path, info("x", taken, "n", 1)).where == f"{path}, array 'x'"


@pytest.mark.parametrize(
    ("array", "taken"),
    [
        (np.array([[1e300]]), np.float32),
        (np.array([[1e6]], np.float32), np.float16),
        (np.array([[100_000]]), np.float16),
    ],
)
def test_numbers_that_would_become_infinite_are_refused(
    tmp_path: Path, array: np.ndarray, taken: type
) -> None:
    path = written(tmp_path / "d.npz", x=array)
    with np.errstate(over="ignore"):
        assert refused(path, info("x", taken, "n", 1)).where == f"{path}, array 'x'"


@pytest.mark.parametrize("shape", [(5, 4), (5,), (5, 3, 1), (5, 0)])
def test_wrong_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = written(tmp_path / "d.npz", x=np.zeros(shape, np.float32))
    error = refused(path, X)
    assert error.where == f"{path}, array 'x'"
    assert f"found shape {shape}, the model takes (batch, 3)" in error.found
    assert "samples on the first axis" in error.found


def test_open_axes_are_shown_in_a_message(tmp_path: Path) -> None:
    path = written(tmp_path / "d.npz", x=np.zeros((5, 2, 7), np.float32))
    error = refused(path, info("x", np.float32, None, "length", 3))
    assert "the model takes (?, length, 3)" in error.found


def test_open_axes_take_any_length(tmp_path: Path) -> None:
    path = written(tmp_path / "d.npz", x=numbered(2, 7, 5))
    samples = load_samples(path, [info("x", np.float32, None, "length", None)])
    assert samples.feeds[0]["x"].shape == (2, 7, 5)


def test_a_number_in_place_of_samples_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "d.npz", x=np.float32(3))
    assert refused(path, info("x", np.float32, "batch")).where == f"{path}, array 'x'"


def test_samples_in_place_of_a_number_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "d.npz", x=numbered(4, 3), scale=np.ones(4, np.float32))
    error = refused(path, X, info("scale", np.float32))
    assert error.where == f"{path}, array 'scale'"


def test_an_input_without_axes_goes_into_every_batch(tmp_path: Path) -> None:
    path = written(tmp_path / "d.npz", x=numbered(20, 3), scale=np.float32(2))
    samples = load_samples(path, [info("scale", np.float32), X])
    assert samples.num_samples == 20
    assert [feed["scale"].shape for feed in samples.feeds] == [(), ()]
    assert [feed["scale"] for feed in samples.feeds] == [2, 2]


def test_different_numbers_of_samples(tmp_path: Path) -> None:
    path = written(tmp_path / "d.npz", x=numbered(4, 3), ids=np.zeros((5, 2), np.int64))
    assert refused(path, X, IDS).found == "different numbers of samples (x: 4, ids: 5)"


@pytest.mark.parametrize("part", ["all", "calibration", "held-back"])
def test_no_samples(tmp_path: Path, part: str) -> None:
    path = written(tmp_path / "d.npz", x=np.zeros((0, 3), np.float32))
    assert refused(path, X, part=part).found == "it holds no samples"


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
def test_junk_is_refused(tmp_path: Path, junk: float) -> None:
    x = numbered(4, 3)
    x[2, 1] = junk
    path = written(tmp_path / "d.npz", x=x)
    error = refused(path, X)
    assert error.where == f"{path}, array 'x'"
    assert error.found == "it holds NaN, infinity or numbers beyond float32"


# Fixed batches


def test_a_fixed_batch_drops_the_tail(tmp_path: Path) -> None:
    path = written(tmp_path / "d.npz", x=numbered(11, 3))
    samples = load_samples(path, [info("x", np.float32, 4, 3)])
    assert [feed["x"].shape for feed in samples.feeds] == [(4, 3), (4, 3)]
    assert seen(samples) == list(range(8))
    assert samples.num_samples == 8


@pytest.mark.parametrize(("batch", "count"), [(1, 1), (1, 5), (4, 4), (20, 20), (20, 39)])
def test_feeds_have_the_fixed_batch(tmp_path: Path, batch: int, count: int) -> None:
    path = written(tmp_path / "d.npz", x=numbered(count, 3))
    samples = load_samples(path, [info("x", np.float32, batch, 3)])
    assert {len(feed["x"]) for feed in samples.feeds} == {batch}
    assert samples.num_samples == count // batch * batch


def test_too_few_samples_for_a_fixed_batch(tmp_path: Path) -> None:
    path = written(tmp_path / "d.npz", x=numbered(3, 3))
    error = refused(path, info("x", np.float32, 4, 3))
    assert error.found == "3 samples are too few for the model's fixed batch of 4"
    assert "32" in error.hint


def test_too_few_held_back_samples_for_a_fixed_batch(tmp_path: Path) -> None:
    path = written(tmp_path / "d.npz", x=numbered(31, 3))
    inputs = (info("x", np.float32, 4, 3),)
    assert load_samples(path, inputs, "calibration").num_samples == 28
    refused(path, *inputs, part="held-back")
    enough = written(tmp_path / "enough.npz", x=numbered(32, 3))
    assert load_samples(enough, inputs, "held-back").num_samples == 4


def test_one_fixed_batch_serves_the_inputs_that_leave_it_open(tmp_path: Path) -> None:
    path = written(tmp_path / "d.npz", x=numbered(7, 3), ids=np.zeros((7, 2), np.int64))
    samples = load_samples(path, [X, info("ids", np.int64, 2, "length")])
    assert [(len(feed["x"]), len(feed["ids"])) for feed in samples.feeds] == [(2, 2)] * 3


def test_two_fixed_batches_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "d.npz", x=numbered(8, 3), ids=np.zeros((8, 2), np.int64))
    error = refused(path, info("x", np.float32, 4, 3), info("ids", np.int64, 2, 2))
    assert error.found == "the model fixes different first axes for its inputs: [2, 4]"
    assert "folder" in error.hint


# Folders


def test_each_file_of_a_folder_is_a_batch(tmp_path: Path) -> None:
    for i, count in enumerate((2, 5, 1)):
        written(tmp_path / f"{i}.npz", x=numbered(count, 3, first=10 * i))
    (tmp_path / "notes.txt").write_text("not data")
    samples = load_samples(tmp_path, [X])
    assert samples.source == "directory"
    assert samples.is_real
    assert [len(feed["x"]) for feed in samples.feeds] == [2, 5, 1]
    assert seen(samples) == [0, 1, 10, 11, 12, 13, 14, 20]
    assert samples.num_samples == 8


def test_batches_of_a_folder_need_no_common_first_axis(tmp_path: Path) -> None:
    written(tmp_path / "0.npz", x=numbered(4, 3), cache=np.zeros((2, 4), np.float32))
    samples = load_samples(tmp_path, [X, info("cache", np.float32, 2, None)])
    assert samples.feeds[0]["cache"].shape == (2, 4)
    assert samples.num_samples == 4


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"")
    assert refused(tmp_path, X).found.startswith("the folder holds no .npz file and no test_data")


def test_a_folder_whose_batches_are_empty(tmp_path: Path) -> None:
    written(tmp_path / "0.npz", x=np.zeros((0, 3), np.float32))
    refused(tmp_path, X)


def test_the_file_of_a_folder_that_does_not_fit_is_named(tmp_path: Path) -> None:
    written(tmp_path / "0.npz", x=numbered(4, 3))
    bad = written(tmp_path / "1.npz", x=numbered(4, 2))
    error = refused(tmp_path, X)
    assert error.where == f"{bad}, array 'x'"
    assert "found shape (4, 2), the model takes (batch, 3)" in error.found


def test_a_folder_has_to_have_the_fixed_batch(tmp_path: Path) -> None:
    bad = written(tmp_path / "0.npz", x=numbered(5, 3))
    error = refused(tmp_path, info("x", np.float32, 4, 3))
    assert error.where == f"{bad}, array 'x'"


def test_folder_is_split_by_files(tmp_path: Path) -> None:
    for i in range(17):
        written(tmp_path / f"{i:02}.npz", x=numbered(2, 3, first=10 * i))
    assert seen(load_samples(tmp_path, [X], "held-back")) == [70, 71, 150, 151]
    calibration = seen(load_samples(tmp_path, [X], "calibration"))
    assert len(calibration) == 30
    assert not {70, 71, 150, 151} & set(calibration)


# Parts


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(count=st.integers(2, 60))
def test_parts_are_disjoint_and_cover_all(tmp_path: Path, count: int) -> None:
    path = written(tmp_path / "d.npz", x=numbered(count, 3))
    calibration = load_samples(path, [X], "calibration")
    held_back = load_samples(path, [X], "held-back")
    assert not set(seen(calibration)) & set(seen(held_back))
    assert sorted(seen(calibration) + seen(held_back)) == list(range(count))
    assert seen(calibration)
    assert seen(held_back)
    assert calibration.num_samples + held_back.num_samples == count
    assert calibration.digest != held_back.digest
    assert seen(load_samples(path, [X], "all")) == list(range(count))


@pytest.mark.parametrize(
    ("count", "held_back"), [(2, [1]), (7, [6]), (8, [7]), (9, [7]), (24, [7, 15, 23])]
)
def test_every_eighth_sample_is_held_back(tmp_path: Path, count: int, held_back: list[int]) -> None:
    path = written(tmp_path / "d.npz", x=numbered(count, 3))
    assert seen(load_samples(path, [X], "held-back")) == held_back


@pytest.mark.parametrize("part", ["all", "calibration", "held-back"])
def test_a_lone_sample_is_in_every_part(tmp_path: Path, part: str) -> None:
    path = written(tmp_path / "d.npz", x=numbered(1, 3, first=5))
    assert seen(load_samples(path, [X], part)) == [5]
    (tmp_path / "folder").mkdir()
    written(tmp_path / "folder" / "0.npz", x=numbered(2, 3))
    assert seen(load_samples(tmp_path / "folder", [X], part)) == [0, 1]


# Digests


def test_digest_is_of_the_data(tmp_path: Path) -> None:
    first = load_samples(written(tmp_path / "a.npz", x=numbered(4, 3)), [X])
    again = load_samples(written(tmp_path / "b.npz", x=numbered(4, 3)), [X])
    other = load_samples(written(tmp_path / "c.npz", x=numbered(4, 3, first=1)), [X])
    assert first.digest == again.digest
    assert first.digest != other.digest
    assert len(first.digest) == 64


def test_digest_is_of_shapes_and_types_too() -> None:
    array = np.arange(16, dtype=np.float32)
    arrays = [array.reshape(4, 4), array.reshape(2, 8), array.view(np.int32).reshape(4, 4)]
    assert len({Samples.from_feeds("file", [{"x": array}], 4).digest for array in arrays}) == 3


def test_digest_does_not_depend_on_the_order_of_inputs() -> None:
    feeds: list[Feed] = [{"a": numbered(2), "b": numbered(3)}, {"b": numbered(3), "a": numbered(2)}]
    digests = {Samples.from_feeds("file", [feed], 2).digest for feed in feeds}
    assert len(digests) == 1


def test_synthetic_samples_are_not_real() -> None:
    assert not Samples.from_feeds("synthetic", [], 0).is_real
