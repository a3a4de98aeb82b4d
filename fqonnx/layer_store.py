"""Quantized weights on disk: what is done is kept, whatever happens to the process.

A weight is one safetensors file in a work folder. The name says of which job it is and what its
bytes hash to, so a torn or altered file is none. There is no index: a file is written under a
temporary name, synced and renamed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fqonnx.errors import ModelError
from fqonnx.files import held, sha256, sync
from fqonnx.frames import FrameSpec
from fqonnx.quant import Guarantee, PackedArray, PackedWeight, SquaredErrors
from fqonnx.quant_job import JobResult

_ENDING = ".safetensors"


@dataclass(frozen=True)
class StoredArray:
    """An array that is read from a file each time that NumPy asks for it."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        with safe_open(self.path, "numpy") as file:
            array: NDArray[Any] = file.get_tensor(self.name)
        return array if dtype is None else array.astype(dtype, copy=False)


class LayerStore:
    """Results of jobs in a folder.

    Args:
        folder: Where.
        identity: What all jobs share and results depend on.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self._identity = json.dumps(identity, sort_keys=True)

    def __len__(self) -> int:
        """Results that are there, those of other identities included."""
        return len(list(self.folder.glob(f"*{_ENDING}")))

    def key(self, *parts: object) -> str:
        """Return the name of a job: a hash of what its result depends on beside the identity."""
        return hashlib.sha256("\n".join([self._identity, *map(repr, parts)]).encode()).hexdigest()

    def find(self, key: str) -> JobResult | None:
        """Return a result, if it is there and whole."""
        for path in self.folder.glob(f"{key}.*{_ENDING}"):
            with suppress(OSError, SafetensorError):
                if path.name == f"{key}.{sha256(path)}{_ENDING}":
                    return _read(path)
        return None

    def put(self, key: str, result: JobResult) -> JobResult:
        """Store a result; return it with arrays that are read when they are asked for.

        Raises:
            ModelError: The folder cannot be written.
        """
        temporary = self.folder / f"{key}.part"
        try:
            arrays, described = _described(result)
            save_file(arrays, temporary, {"result": json.dumps(described)})
            sync(temporary)
            path = self.folder / f"{key}.{sha256(temporary)}{_ENDING}"
            temporary.replace(path)
            sync(self.folder)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                temporary.unlink()
            hint = "Make room, or choose another place with -o"
            raise ModelError(str(self.folder), f"cannot be written: {error}", hint) from error
        return _read(path)


def work_folder(output_path: Path) -> Path:
    """Return the hidden folder beside an output where a compilation has what it works with."""
    return output_path.with_name(f".{output_path.name}.layers")


@contextmanager
def kept_layers(output_path: Path, identity: Mapping[str, Any]) -> Iterator[LayerStore]:
    """Keep the results of a compilation in its `work_folder` until the output is there.

    Folders in it are those of a run: they go at its end, or at the start of the next.

    Args:
        output_path: The output.
        identity: See `LayerStore`.

    Raises:
        ConfigError: Another compilation is writing there, or the folder cannot be made.
    """
    folder = work_folder(output_path)
    hint = "Choose another place with -o"
    with held(folder, "another compilation is writing it", hint):
        store = LayerStore(folder, identity)
        _remove_folders(folder)  # what a killed process left
        try:
            yield store
        except BaseException as error:
            _remove_folders(folder)
            if len(store):
                error.add_note(
                    f"{len(store)} quantized weights are kept in {folder}: the same command goes "
                    "on with them"
                )
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _remove_folders(parent: Path) -> None:
    for path in parent.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def _described(result: JobResult) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays of a result by the names that they have in its file, and the rest."""
    arrays: dict[str, NDArray[Any]] = {}

    def described(weight: PackedWeight, prefix: str) -> dict[str, Any]:
        found: dict[str, PackedArray] = dict(weight.arrays)
        if weight.bias_shift is not None:
            found["bias_shift"] = weight.bias_shift
        for name, array in found.items():
            arrays[f"{prefix}.{name}"] = np.ascontiguousarray(array)
        return {
            "prefix": prefix,
            "arrays": {name: [array.shape, array.dtype.str] for name, array in found.items()},
            "frame_in": asdict(weight.frame_in),
            "frame_out": asdict(weight.frame_out),
            "bits": weight.bits,
            "group_size": weight.group_size,
            "multiplier": weight.multiplier,
            "errors": asdict(weight.errors),
            "guarantee": weight.guarantee and asdict(weight.guarantee),
        }

    return arrays, {
        "reason": result.reason,
        "rows": result.rows,
        "weight": result.weight and described(result.weight, "weight"),
        "biases": {
            name: described(bias, f"bias{number}")
            for number, (name, bias) in enumerate(result.biases.items())
        },
    }


def _read(path: Path) -> JobResult:
    """Return the result that a file holds."""
    with safe_open(path, "numpy") as file:
        found = json.loads(file.metadata()["result"])

    def weight(of: dict[str, Any]) -> PackedWeight:
        arrays: dict[str, PackedArray] = {
            name: StoredArray(path, f"{of['prefix']}.{name}", tuple(shape), np.dtype(dtype))
            for name, (shape, dtype) in of["arrays"].items()
        }
        shift = arrays.pop("bias_shift", None)
        return PackedWeight(
            frame_in=_frame(of["frame_in"]),
            frame_out=_frame(of["frame_out"]),
            bits=of["bits"],
            group_size=of["group_size"],
            multiplier=of["multiplier"],
            arrays=arrays,
            bias_shift=None if shift is None else np.asarray(shift),
            errors=SquaredErrors(**of["errors"]),
            guarantee=of["guarantee"] and Guarantee(**of["guarantee"]),
        )

    return JobResult(
        found["weight"] and weight(found["weight"]),
        {name: weight(bias) for name, bias in found["biases"].items()},
        found["reason"],
        found["rows"],
    )


def _frame(fields: dict[str, Any]) -> FrameSpec:
    subspaces = fields.pop("subspaces")
    return FrameSpec(**fields, subspaces=subspaces and tuple(subspaces))
