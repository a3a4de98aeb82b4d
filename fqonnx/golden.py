"""Golden inputs and outputs: what a deployed model must compute, and how far off it may be."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fqonnx.errors import DataError

# What NumPy raises for a file that is no .npz, or is damaged; a single array has no `files`.
_BROKEN = (
    *(OSError, ValueError, KeyError, EOFError, AttributeError),
    *(zipfile.BadZipFile, zlib.error),
)

Arrays: TypeAlias = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Golden:
    """One feed of a model and what came of it.

    Attributes:
        inputs: The feed, by input.
        compiled: Outputs of the compiled model where it was deployed from, by output.
        float: Those of the float model; empty where it was not given.
    """

    inputs: Arrays
    compiled: Arrays
    float: Arrays

    def to_npz(self) -> bytes:
        """Return an ``.npz`` file with arrays ``input/NAME``, ``compiled/NAME``, ``float/NAME``."""
        groups = {"input": self.inputs, "compiled": self.compiled, "float": self.float}
        arrays = {f"{k}/{name}": group[name] for k, group in groups.items() for name in group}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    @classmethod
    def read(cls, path: Path) -> Golden:
        """Read what `to_npz` wrote.

        Raises:
            DataError: It is not such a file.
        """
        groups: dict[str, dict[str, NDArray[Any]]] = {"input": {}, "compiled": {}, "float": {}}
        try:
            with path.open("rb") as file:  # np.load leaves one of its own open where it fails
                arrays = np.load(file, allow_pickle=False)
                for key in arrays.files:
                    group, _, name = key.partition("/")
                    groups[group][name] = arrays[key]
        except _BROKEN as error:
            raise DataError(
                str(path), f"not readable as golden outputs: {error}", "Copy the bundle again"
            ) from error
        return cls(groups["input"], groups["compiled"], groups["float"])


def rel_error(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Return ‖found − wanted‖/‖wanted‖; of integers and truth values the share that differs.

    Infinity for another shape, or NaN at other places.
    """
    if found.shape != wanted.shape:
        return math.inf
    if wanted.dtype.kind in "biu":
        return float(np.mean(found != wanted)) if wanted.size else 0.0
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(wanted)
    if not np.array_equal(found[~finite], wanted[~finite], equal_nan=True):
        return math.inf
    difference = float(np.linalg.norm(found[finite] - wanted[finite]))
    if difference == 0:
        return 0.0
    norm = float(np.linalg.norm(wanted[finite]))
    return difference / norm if norm and math.isfinite(difference) else math.inf
