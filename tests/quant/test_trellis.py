import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fqonnx.native import encode_trellis, library_path
from fqonnx.packing import TILE
from fqonnx.quant.trellis import TrellisCode, _viterbi, search, trellis_code

BITS = pytest.mark.parametrize("bits", [1, 2, 3, 4])
# Of the Gaussian source, and the best uniform scalar quantizer (Max 1960), at 1 to 4 bits.
SHANNON = {bits: 4.0**-bits for bits in (1, 2, 3, 4)}
SCALAR = {1: 0.3634, 2: 0.1188, 3: 0.0374, 4: 0.0115}


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def random_codes(bits: int, *shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 1 << bits, shape, np.uint8)


def tiny(bits: int) -> TrellisCode:
    """The shortest window that the native search takes."""
    window, code = bits + 5, trellis_code(bits)
    return TrellisCode(bits, window, 33 << (16 - window), code.magnitudes, code.deviation)


def squared_error(code: TrellisCode, x: NDArray[np.float32]) -> float:
    values = code.decode(code.encode(x * np.float32(code.deviation))) / np.float32(code.deviation)
    return float(np.square(values - x).mean() / np.square(x).mean())


@BITS
@pytest.mark.parametrize("window", [10, 12, 14, 16])
def test_the_codes_are_what_they_say(bits: int, window: int) -> None:
    code = trellis_code(bits, window)
    assert code.multiplier & -code.multiplier == 1 << (16 - window)
    assert np.array_equal(code.levels, -code.levels[::-1])
    assert (np.diff(code.levels.astype(int)) > 0).all()
    assert code.values.shape == (1 << window,)
    assert np.array_equal(np.unique(code.values), code.levels)


@BITS
@settings(deadline=None, max_examples=25)
@given(st.data())
def test_a_coefficient_is_a_function_of_its_window(bits: int, data: st.DataObject) -> None:
    window = data.draw(st.sampled_from([10, 12, 14, 16]))
    code = trellis_code(bits, window)
    codes = random_codes(bits, TILE, seed=data.draw(st.integers(0, 1000)))
    place = data.draw(st.integers(0, TILE - 1))
    stream = "".join(f"{c:0{bits}b}" for c in codes) * 2
    end = TILE * bits + (place + 1) * bits
    assert code.decode(codes)[place] == code.values[int(stream[end - window : end], 2)]
    # Bits before the window do not count.
    others = random_codes(bits, TILE, seed=data.draw(st.integers(0, 1000)))
    for age in range(-(-window // bits)):
        others[place - age] = codes[place - age]
    assert code.decode(others)[place] == code.decode(codes)[place]


@BITS
@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 1000))
def test_viterbi_finds_the_best_path_there_is(bits: int, seed: int) -> None:
    code, length = tiny(bits), {1: 8, 2: 5, 3: 3, 4: 3}[bits]
    values = code.values * np.int16(100)
    targets = np.random.default_rng(seed).integers(-9000, 9000, (1, length)).astype(np.int16)
    start = np.array([seed % len(values)])
    mask, found = len(values) - 1, {}
    for path in itertools.product(range(1 << bits), repeat=length):
        state, cost = int(start[0]), 0
        for c, target in zip(path, targets[0], strict=True):
            state = (state << bits | c) & mask
            cost += (int(values[state]) - int(target)) ** 2 >> 16
        end = found.setdefault(state, (cost, []))
        found[state] = min(end, (cost, [path])) if cost != end[0] else (cost, [*end[1], path])
    if int(start[0]) in found:
        best = found[int(start[0])][1]
        assert tuple(_viterbi(values, bits, targets, start)[0]) in best


def test_viterbi_from_anywhere_is_no_worse_than_from_any_one_state() -> None:
    code = tiny(2)
    values = code.values * np.int16(100)
    targets = (normal(1, 12) * 4000).astype(np.int16)

    def least(codes: NDArray[np.uint8]) -> int:
        """Over the states that the path may begin in."""
        states = np.arange(len(values))
        cost = np.zeros(len(values), np.int64)
        for c, target in zip(codes[0], targets[0], strict=True):
            states = (states << 2 | int(c)) & len(values) - 1
            cost += (values[states].astype(np.int64) - int(target)) ** 2 >> 16
        return int(cost.min())

    anywhere = least(_viterbi(values, 2, targets, None))
    assert all(
        anywhere <= least(_viterbi(values, 2, targets, np.array([s]))) for s in range(len(values))
    )


@pytest.mark.skipif(library_path() is None, reason="the native library was not built")
@BITS
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_the_native_search_is_that_in_numpy_bit_for_bit(bits: int, data: st.DataObject) -> None:
    code = data.draw(st.sampled_from([tiny(bits), trellis_code(bits, 10), trellis_code(bits)]))
    values = code.values * np.int16(data.draw(st.sampled_from([1, 170, 258])))
    streams = data.draw(st.integers(0, 3))
    length = data.draw(st.sampled_from([1, 2, 7, 16, 65, TILE]))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    # From none to all of them beyond the range of the values.
    spread = data.draw(st.sampled_from([0, 10, 8000, 40000]))
    targets = (rng.standard_normal((streams, length)) * spread).clip(-32768, 32767).astype(np.int16)
    native = encode_trellis(values, bits, targets)
    assert native is not None
    assert native.dtype == np.uint8
    assert np.array_equal(native, search(values, bits, targets))


@pytest.mark.skipif(library_path() is None, reason="the native library was not built")
@pytest.mark.parametrize("instruction_set", ["portable", "avx2"])
def test_instruction_sets_agree(instruction_set: str) -> None:
    script = """if True:
        import numpy as np
        from fqonnx.native import encode_trellis
        from fqonnx.quant.trellis import search, trellis_code
        rng = np.random.default_rng(0)
        for bits in (1, 2, 3, 4):
            values = trellis_code(bits, 10).values * np.int16(170)
            targets = (rng.standard_normal((3, 48)) * 9000).clip(-32768, 32767).astype(np.int16)
            found = encode_trellis(values, bits, targets)
            assert np.array_equal(found, search(values, bits, targets))
    """
    environment = os.environ | {"FQONNX_INSTRUCTION_SET": instruction_set}
    command = [sys.executable, "-P", "-c", script]  # not the folder of the sources
    subprocess.run(command, env=environment, check=True)


@BITS
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000))
def test_what_is_encoded_decodes_to_itself(bits: int, seed: int) -> None:
    # Few levels, far apart: no other path is as close.
    code = trellis_code(bits)
    values = code.decode(random_codes(bits, 2, TILE, seed=seed))
    again = code.decode(code.encode(values.astype(np.float32)))
    assert np.square(again.astype(float) - values).mean() < 1.0


@BITS
def test_the_error_is_far_below_that_of_scalars(bits: int) -> None:
    error = squared_error(trellis_code(bits), normal(64, TILE))
    assert SHANNON[bits] < error
    assert error < {1: 0.8, 2: 0.62, 3: 0.52, 4: 0.48}[bits] * SCALAR[bits]


def test_a_longer_window_is_better() -> None:
    x = normal(64, TILE)
    errors = [squared_error(trellis_code(2, window), x) for window in (10, 12, 14)]
    assert errors == sorted(errors, reverse=True)


def test_outliers_are_cut_and_do_not_disturb_others() -> None:
    code = trellis_code(2)
    x = normal(1, TILE)
    x[0, 100] = 1e6
    values = code.decode(code.encode(x * np.float32(code.deviation))) / code.deviation
    assert values[0, 100] > 1.5
    assert np.square(np.delete(values - x, 100)).mean() < 0.12
