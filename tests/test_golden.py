from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fqonnx.errors import DataError
from fqonnx.golden import Golden, rel_error

NUMBERS = st.floats(-1e6, 1e6, width=32)


def test_arrays_keep_their_names_and_types(tmp_path: Path) -> None:
    golden = Golden({"a/b": np.ones(2, np.int8)}, {"y": np.float16(3)}, {})  # type: ignore[dict-item]
    (tmp_path / "golden.npz").write_bytes(golden.to_npz())
    found = Golden.read(tmp_path / "golden.npz")
    assert (found.inputs.keys(), found.compiled.keys()) == ({"a/b"}, {"y"})
    assert (found.inputs["a/b"].dtype, found.compiled["y"].dtype) == (np.int8, np.float16)
    assert not found.float


@pytest.mark.parametrize("fault", ["none", "text", "half", "flipped", "other"])
def test_files_that_are_none_are_refused(fault: str, tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    content = Golden({}, {"y": np.arange(999)}, {}).to_npz()
    if fault == "other":
        np.savez(path, y=np.ones(2))
    elif fault != "none":
        flipped = bytes(byte ^ (i == len(content) // 2) for i, byte in enumerate(content))
        broken = {"text": b"text", "half": content[: len(content) // 2], "flipped": flipped}
        path.write_bytes(broken[fault])
    with pytest.raises(DataError, match="not readable as golden outputs"):
        Golden.read(path)


@given(arrays(np.float32, (3, 4), elements=NUMBERS), st.floats(1e-3, 1e3))
def test_errors_are_relative_and_zero_for_equals(array: np.ndarray, scale: float) -> None:
    assert rel_error(array, array) == 0
    if np.linalg.norm(array) > 1e-20:
        doubled = array.astype(np.float64) * 2
        assert rel_error(doubled, array) == pytest.approx(1)
        assert rel_error(doubled * scale, array * np.float64(scale)) == pytest.approx(1)


def test_what_is_not_finite_has_to_be_the_same() -> None:
    masked = np.array([1.0, -np.inf, np.nan, 2.0])
    assert rel_error(masked, masked) == 0
    assert rel_error(np.array([1.0, -np.inf, 0.0, 2.0]), masked) == np.inf
    assert rel_error(np.array([1.0, np.nan, np.nan, 2.0]), masked) == np.inf
    assert rel_error(np.array([1.0, -np.inf, np.nan, np.nan]), masked) == np.inf
    assert rel_error(np.ones(3), np.ones(4)) == np.inf
    assert rel_error(np.ones(3), np.zeros(3)) == np.inf
    assert rel_error(np.zeros((2, 0)), np.zeros((2, 0))) == 0


@given(arrays(np.int64, (7,), elements=st.integers(-9, 9)), st.integers(0, 6))
def test_errors_of_integers_are_the_share_that_differs(array: np.ndarray, i: int) -> None:
    assert rel_error(array, array) == 0
    other = array.copy()
    other[i] += 1000
    assert rel_error(other, array) == rel_error(array, other) == 1 / 7
    assert rel_error(other > 9, np.zeros(7, bool)) == 1 / 7
    assert rel_error(array[:0], array[:0]) == 0
