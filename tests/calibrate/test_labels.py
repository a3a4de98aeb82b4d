from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fqonnx.calibrate import load_labels
from fqonnx.errors import DataError


def saved(path: Path, array: Any, **options: Any) -> Path:
    np.save(path / "labels.npy", array, **options)
    return path / "labels.npy"


def refused(path: Path, num_samples: int = 3) -> str:
    with pytest.raises(DataError) as caught:
        load_labels(path, num_samples)
    assert caught.value.where == str(path)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return caught.value.found


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint8, np.uint64])
def test_integers_come_back(dtype: type, tmp_path: Path) -> None:
    labels = np.array([2, 0, 1], dtype)
    found = load_labels(saved(tmp_path, labels), 3)
    assert found.dtype == dtype
    assert np.array_equal(found, labels)


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (np.arange(4), "it is int64(4,), expected integers (3,)"),
        (np.arange(0), "it is int64(0,), expected integers (3,)"),
        (np.arange(3.0), "it is float64(3,), expected integers (3,)"),
        (np.eye(3, dtype=int), "it is int64(3, 3), expected integers (3,)"),
        (np.array(3), "it is int64(), expected integers (3,)"),
        (np.ones(3, bool), "it is bool(3,), expected integers (3,)"),
        (np.array(["a", "b", "c"]), "it is <U1(3,), expected integers (3,)"),
    ],
)
def test_something_else_is_refused(labels: np.ndarray, found: str, tmp_path: Path) -> None:
    assert refused(saved(tmp_path, labels)) == found


def test_several_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "labels.npz", y=np.arange(3))
    assert refused(tmp_path / "labels.npz") == "it holds several arrays, expected one"


def test_no_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere.npy") == "no such file"
    assert refused(tmp_path).startswith("not readable as .npy: ")


def test_an_object_is_not_unpickled(tmp_path: Path) -> None:
    path = saved(tmp_path, np.array([1, "a", None], object), allow_pickle=True)
    assert refused(path).startswith("not readable as .npy: Object arrays cannot be loaded")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello", b"\x80\x04.", b"\x93NUMPY"])
def test_a_file_that_is_no_array(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "labels.npy"
    path.write_bytes(content)
    assert refused(path).startswith("not readable as .npy: ")


def test_an_array_that_was_cut(tmp_path: Path) -> None:
    path = saved(tmp_path, np.arange(3))
    path.write_bytes(path.read_bytes()[:-8])
    assert refused(path).startswith("not readable as .npy: ")
