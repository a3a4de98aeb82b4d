"""Trellis codes: a coefficient is a function of the last bits of a stream of codes.

A code has `bits` bits, and a *state* is the last `window` bits of the stream up to and with it, the
newest lowest. The value of a state s is computed by a product and a small table,

    value(s) = levels[⌊(multiplier·s mod 2^16)/2^10⌋]

so a coefficient needs nothing but a shift of the stream. Which stream is closest to coefficients is
found by Viterbi's algorithm: `TrellisCode.encode`. See docs/trellis.md.

Sources: Marcellin and Fischer, "Trellis coded quantization", IEEE Trans. Commun. 38 (1990); QTIP,
arXiv 2406.11235, for trellises whose states are windows of a stream and computed values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from fqonnx.native import encode_trellis

_WORD = 16  # bits

DEFAULT_WINDOW = 12
_LEAST, _MOST = -(1 << 15), (1 << 15) - 1
_REACH = 5  # windows on both sides of a stream's end that the state there may depend on

Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class TrellisCode:
    """A code for coefficients of unit variance.

    Attributes:
        bits: Bits a coefficient, 1 to 4.
        window: Bits of a state, bits + 5 to 16.
        multiplier: 16 bits, with 16 − window zeros at the end: the product does not depend on bits
            of the stream before the window, so whoever decodes may leave them in.
        magnitudes: The upper half of the levels, ascending, 1 to 127; the lower is its mirror.
        deviation: What has unit variance, in levels.
    """

    bits: int
    window: int
    multiplier: int
    magnitudes: tuple[int, ...]
    deviation: float

    @cached_property
    def levels(self) -> NDArray[np.int8]:
        """The table (64,)."""
        upper = np.array(self.magnitudes, np.int8)
        return np.concatenate([-upper[::-1], upper])

    @cached_property
    def values(self) -> NDArray[np.int8]:
        """The value of each state (2^window,)."""
        return self.levels[_indices(np.arange(1 << self.window), self.multiplier)]

    def decode(self, codes: Codes) -> NDArray[np.int8]:
        """Return the values of closed streams of codes (..., length), in levels."""
        return self.levels[level_indices(codes, self.bits, self.multiplier)]

    def encode(self, targets: NDArray[np.float32]) -> Codes:
        """Return closed streams whose values are close to targets.

        Args:
            targets: (streams, length), in levels.

        Returns:
            Codes (streams, length).
        """
        fine = np.round(targets * _FINE).clip(-0x7FFF, 0x7FFF).astype(np.int16)
        values = self.values * np.int16(_FINE)
        codes = encode_trellis(values, self.bits, fine)
        return search(values, self.bits, fine) if codes is None else codes


def level_indices(codes: Codes, bits: int, multiplier: int) -> NDArray[np.int64]:
    """Return which level each code of closed streams (..., length) stands for."""
    return _indices(states(codes, bits), multiplier)


def states(codes: Codes, bits: int) -> NDArray[np.int64]:
    """Return the last 16 bits of closed streams (..., length) up to and with each code."""
    found, held = codes.astype(np.int64), bits
    while held < _WORD:
        found |= np.roll(found, held // bits, -1) << held
        held *= 2
    return found & 0xFFFF


def _indices(states: NDArray[np.int64], multiplier: int) -> NDArray[np.int64]:
    indices: NDArray[np.int64] = (states * multiplier & 0xFFFF) >> 10
    return indices


def search(values: NDArray[np.int16], bits: int, targets: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Do what `fqonnx.native.encode_trellis` does, bit for bit and slowly.

    A stream is closed: its first states have its last codes in them. So what surrounds its end is
    searched alone, and the state found in the middle is where the stream begins and ends.
    """
    length = targets.shape[1]
    window = len(values).bit_length() - 1
    reach = min(_REACH * window // bits, length)
    around = targets.take(range(-reach, reach), 1, mode="wrap")
    found = _viterbi(values, bits, around, None)
    state = np.zeros(len(targets), np.int64)
    for i in range(reach):
        state = (state << bits | found[:, i]) & (len(values) - 1)
    return _viterbi(values, bits, targets, state)


def _viterbi(
    values: NDArray[np.int16], bits: int, targets: NDArray[np.int16], ends: NDArray[np.int64] | None
) -> NDArray[np.uint8]:
    """Return the codes of least Σ⌊(value − target)²/2^16⌋ that begin and end in states ``ends``.

    Sums are clamped to 16 bits, less what is known to be in all of them.
    """
    streams, length = targets.shape
    row = np.arange(streams)
    tails = len(values) >> bits
    cost = np.full((streams, len(values)), _LEAST if ends is None else _MOST, np.int32)
    if ends is not None:
        cost[row, ends] = _LEAST
    drop = np.zeros(streams, np.int32)
    oldest = np.empty((length, streams, tails), np.uint8)
    for t in range(length):
        by_oldest = cost.reshape(streams, 1 << bits, tails)
        oldest[t] = by_oldest.argmin(1)
        best = by_oldest.min(1)
        error = np.subtract(values, targets[:, t, None], dtype=np.int32).clip(_LEAST, _MOST)
        cost = np.repeat((best - drop[:, None]).clip(_LEAST, _MOST), 1 << bits, axis=1)
        cost = (cost + (error * error >> 16)).clip(_LEAST, _MOST)
        drop = np.minimum(best.min(1) - drop - _LEAST, _MOST)
    codes = np.empty((streams, length), np.uint8)
    state = cost.argmin(1) if ends is None else ends
    for t in reversed(range(length)):
        codes[:, t] = state & (1 << bits) - 1
        tail = state >> bits
        state = oldest[t, row, tail].astype(np.int64) * tails + tail
    return codes


@cache
def trellis_code(bits: int, window: int = DEFAULT_WINDOW) -> TrellisCode:
    """Return the code for ``bits``, 1 to 4, of least error among those of a window, 10 to 16."""
    magnitudes = tuple(map(int, _MAGNITUDES[bits].split()))
    return TrellisCode(bits, window, _MULTIPLIERS[bits][window], magnitudes, _DEVIATIONS[bits])


# Parts of a level that the search knows. A square of 2^16 of them counts as 1 in its sums of 16
# bits; targets beyond 2^15 are cut.
_FINE = 170
# Found by tools/trellis.py --search.
_MAGNITUDES = {
    1: "1 4 10 12 13 14 16 17 21 22 23 24 25 26 29 37 45 46 52 55 "
    "56 57 58 59 61 62 68 79 84 90 91 127",
    2: "1 3 5 7 9 11 14 16 18 19 21 24 26 28 31 33 35 38 41 43 "
    "47 49 53 56 59 64 68 74 82 90 97 127",
    3: "1 3 5 7 9 11 14 15 17 19 21 24 26 27 30 32 35 37 40 42 "
    "46 47 52 54 58 62 66 71 78 85 100 127",
    4: "1 3 5 7 9 11 14 15 17 19 21 24 25 27 30 32 34 36 39 41 "
    "45 46 50 53 57 60 65 70 77 87 102 127",
}
_DEVIATIONS = {1: 56.86, 2: 48.38, 3: 44.12, 4: 41.23}
_MULTIPLIERS = {
    1: {10: 30400, 12: 35664, 14: 35372, 16: 33477},
    2: {10: 16960, 12: 16816, 14: 16940, 16: 16869},
    3: {10: 7872, 12: 8368, 14: 8276, 16: 8217},
    4: {10: 3904, 12: 4176, 14: 4156, 16: 4179},
}
