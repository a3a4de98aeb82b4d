"""Text that every Python has: passages of docstrings, a character a token."""

from __future__ import annotations

from functools import cache

import numpy as np

import docstrings
from architectures.training import Part

LENGTH, SHORT = 64, 32
_FIRST, _LAST = 32, 126  # printable ASCII
_HIDDEN, _START = _LAST - _FIRST + 1, _LAST - _FIRST + 2
VOCABULARY = _START + 1
_PARTS: dict[Part, slice] = {
    "calibration": slice(0, 256),
    "judged": slice(256, 768),
    "training": slice(768, None),
}


def draw_following(
    part: Part, count: int, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return passages (count, LENGTH), and the character that follows each of theirs."""
    text = _passages(part, count, LENGTH + 1, rng)
    return {"input_ids": text[:, :-1]}, text[:, 1:]


def draw_vowels(
    part: Part, count: int, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return short passages without vowels, the whole ones moved by one, and the whole ones."""
    text = _passages(part, count, SHORT, rng)
    hidden = np.where(np.isin(text, _ids("aeiouAEIOU")), _HIDDEN, text)
    moved = np.concatenate([np.full((count, 1), _START), text[:, :-1]], axis=1)
    return {"input_ids": hidden, "decoder_input_ids": moved}, text


def _passages(part: Part, count: int, length: int, rng: np.random.Generator) -> np.ndarray:
    text = _text(part)
    starts = rng.integers(0, len(text) - length, (count, 1))
    return text[starts + np.arange(length)]


@cache
def _text(part: Part) -> np.ndarray:
    return _ids(" ".join(docstrings.sentences()[_PARTS[part]]))


def _ids(text: str) -> np.ndarray:
    codes = np.frombuffer(text.encode("ascii", "ignore"), np.uint8).astype(np.int64)
    return codes[(codes >= _FIRST) & (codes <= _LAST)] - _FIRST
