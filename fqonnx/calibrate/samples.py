"""Inputs for a model: read from files, checked against the graph, handed out in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fqonnx.calibrate.sample_files import batches, read_arrays
from fqonnx.errors import DataError
from fqonnx.session import Feed, InputInfo, num_samples

BATCH_SIZE = 16
_HOLD_BACK = 8  # every eighth sample is for the comparison, not for calibration

Part: TypeAlias = Literal["all", "calibration", "held-back"]


@dataclass(frozen=True)
class Samples:
    """Feeds for a model.

    Attributes:
        source: ``file``, ``directory`` or ``synthetic``.
        feeds: One feed a batch.
        num_samples: Samples in all feeds.
        digest: SHA-256 of the arrays with their names, types and shapes, so that a report says
            what data it is about.
    """

    source: str
    feeds: tuple[Feed, ...]
    num_samples: int
    digest: str

    @classmethod
    def from_feeds(cls, source: str, feeds: Sequence[Feed], num_samples: int) -> Samples:
        """Make samples of feeds, with their digest."""
        digest = hashlib.sha256()
        for feed in feeds:
            for name in sorted(feed):
                array = feed[name]
                digest.update(repr((name, array.dtype.str, array.shape)).encode())
                digest.update(np.ascontiguousarray(array).tobytes())
        return cls(source, tuple(feeds), num_samples, digest.hexdigest())

    @property
    def is_real(self) -> bool:
        """Whether somebody gave these samples."""
        return self.source != "synthetic"


def load_samples(path: Path, inputs: Sequence[InputInfo], part: Part = "all") -> Samples:
    """Read samples.

    Args:
        path: An ``.npz`` file with one array for each input and samples on the first axis; or a
            folder of ``.npz`` files, each one batch as the model takes it; or one of the ONNX
            project's test data: ``test_data_set_0`` … with ``input_0.pb`` … in each, or just one of
            them.
        inputs: The graph inputs.
        part: All samples, those for calibration, or every eighth, which is held back from it. A
            lone sample is in every part.

    Raises:
        DataError: The data cannot be read or do not fit the model.
    """
    names = [value.name for value in inputs]
    if path.is_dir():
        found = batches(path)
        feeds = [
            _checked(found[i], read_arrays(found[i], names), inputs, batched=False)
            for i in _indices(len(found), part)
        ]
        counts = [num_samples(feed) for feed in feeds]
        if 0 in counts:
            raise DataError(str(path), "a batch in it holds no samples", "Remove that batch")
        return Samples.from_feeds("directory", feeds, sum(counts))

    arrays = _checked(path, read_arrays(path, names), inputs, batched=True)
    count = next((len(array) for array in arrays.values() if array.ndim), 1)
    if count == 0:
        raise DataError(str(path), "it holds no samples", "Give at least one")
    index = _indices(count, part)
    fixed = _fixed_batch(path, inputs)
    if fixed is not None:
        if len(index) < fixed:
            raise DataError(
                str(path),
                f"{count} samples are too few for the model's fixed batch of {fixed}",
                f"Give at least {fixed * _HOLD_BACK}",
            )
        index = index[: len(index) // fixed * fixed]
    size = fixed or BATCH_SIZE
    feeds = [
        {
            name: array[index[i : i + size]] if array.ndim else array
            for name, array in arrays.items()
        }
        for i in range(0, len(index), size)
    ]
    return Samples.from_feeds("file", feeds, len(index))


def _checked(
    path: Path, arrays: dict[str, NDArray[Any]], inputs: Sequence[InputInfo], *, batched: bool
) -> dict[str, NDArray[Any]]:
    """Return the arrays that the model takes, cast where that loses nothing but precision."""
    missing = [value.name for value in inputs if value.name not in arrays]
    if missing:
        raise DataError(
            str(path),
            f"no array named {', '.join(missing)}; it holds {', '.join(arrays) or 'none'}",
            "Name the arrays as the model's inputs",
        )
    checked = {
        value.name: _fitted(f"{path}, array {value.name!r}", arrays[value.name], value, batched)
        for value in inputs
    }
    lengths = {name: len(array) for name, array in checked.items() if array.ndim}
    if batched and len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise DataError(str(path), f"different numbers of samples ({counts})", "Make them equal")
    return checked


def _fitted(where: str, array: NDArray[Any], value: InputInfo, batched: bool) -> NDArray[Any]:
    """Return one array in the type of an input, if it fits."""
    if not np.can_cast(array.dtype, value.dtype, "same_kind"):
        raise DataError(
            where, f"found {array.dtype}, the model takes {value.dtype}", "Convert the array"
        )
    first = 1 if batched else 0  # the axis of samples is not the graph's
    if value.has_rank and (
        array.ndim != len(value.shape)
        or any(
            isinstance(want, int) and want != have
            for want, have in zip(value.shape[first:], array.shape[first:], strict=True)
        )
    ):
        shape = ", ".join("?" if d is None else str(d) for d in value.shape)
        raise DataError(
            where,
            f"found shape {array.shape}, the model takes ({shape})"
            + (" with samples on the first axis" if batched else ""),
            "Reshape the array",
        )
    with np.errstate(over="ignore"):
        cast = array.astype(value.dtype, copy=False)
    if not np.isfinite(cast).all():
        found = f"it holds NaN, infinity or numbers beyond {value.dtype}"
        raise DataError(where, found, "Remove those samples")
    if cast.dtype.kind in "iub" and not np.array_equal(cast, array):
        raise DataError(
            where, f"it holds numbers beyond {value.dtype}, which the model takes", "Mend them"
        )
    return cast


def _indices(count: int, part: Part) -> list[int]:
    """Return which of ``count`` items a part has; of fewer than eight, the last is held back."""
    held = list(range(_HOLD_BACK - 1, count, _HOLD_BACK)) or [count - 1]
    if part == "all" or count == 1:
        return list(range(count))
    if part == "held-back":
        return held
    return sorted(set(range(count)) - set(held))


def _fixed_batch(path: Path, inputs: Sequence[InputInfo]) -> int | None:
    """Return the batch that the graph fixes, or None where it leaves it open."""
    fixed = {value.shape[0] for value in inputs if value.shape}
    sizes = [size for size in fixed if isinstance(size, int)]
    if len(sizes) > 1:
        raise DataError(
            str(path),
            f"the model fixes different first axes for its inputs: {sorted(sizes)}",
            "Give a folder of .npz files, each one batch as the model takes it",
        )
    return sizes[0] if sizes else None
