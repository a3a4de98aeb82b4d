"""A bundle for Triton: a model repository, and a client that replays the golden inputs.

The backend of ONNX Runtime there passes the path of the library on as it is, and no config entries
of a session.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fqonnx.bundle import BundleError, read_manifest
from fqonnx.deploy.contents import Contents, Layout
from fqonnx.deploy.options import DeployOptions
from fqonnx.deploy.source import Source
from fqonnx.doctor.files import check_files
from fqonnx.doctor.runtime import release
from fqonnx.session import InputInfo

_MAX_BATCH = 64
_TYPES = {
    "bool": "BOOL",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
}
_TYPES |= {name: name.upper() for name in ("int8", "int16", "int32", "int64")}
_TYPES |= {name: name.upper() for name in ("uint8", "uint16", "uint32", "uint64")}


@dataclass(frozen=True)
class Port:
    """An input or output as Triton's configuration has it.

    Attributes:
        name: Of the input or output.
        type: Triton's name of its type, without ``TYPE_``.
        dims: Sizes, −1 where they are open, without the axis of the batch.
        is_scalar: Whether a sample has no axis: Triton then wants one of size 1.
    """

    name: str
    type: str
    dims: tuple[int, ...]
    is_scalar: bool


def layout(source: Source, options: DeployOptions) -> Layout:
    """Return where the large files are: a model repository and, beside it, the library.

    Raises:
        BundleError: An earlier bundle is not one of the same inputs and outputs, or damaged.
    """
    name = re.sub(r"[^\w.-]", "-", source.path.stem)
    if options.previous is None:
        return Layout(f"models/{name}/1/model.onnx", "lib/libfqonnx_ops.so")
    manifest = read_manifest(options.previous)
    for finding in check_files(options.previous, manifest):
        if finding.mend is not None:
            raise BundleError(str(options.previous / finding.what), finding.said, finding.mend)
    if manifest.target != "triton":
        found = f"it is for {manifest.target}, expected one for triton"
        raise BundleError(str(options.previous), found, "Leave --previous out")
    earlier = Source.load(options.previous / manifest.model)
    if _ports(earlier, False) != _ports(source, False):
        found = "its inputs and outputs are others, and versions share a configuration"
        raise BundleError(str(options.previous), found, "Leave --previous out")
    _, name, version, _ = PurePosixPath(manifest.model).parts
    carried = {
        file.path: options.previous / file.path
        for file in manifest.files
        if re.fullmatch(rf"models/{re.escape(name)}/\d+/.*", file.path)
    }
    new = f"models/{name}/{int(version) + 1}/model.onnx"
    runtime = release(manifest.onnxruntime_lowest)[1]
    if not options.library:  # its layers run by their bodies then
        runtime = max(runtime, earlier.lowest_runtime(None))
    return Layout(new, "lib/libfqonnx_ops.so", carried, runtime=runtime)


def files(contents: Contents) -> Mapping[str, bytes]:
    """Return the configuration, data for warming up, a client, and what to know about them."""
    folder = PurePosixPath(contents.manifest.model).parents[1]
    golden = contents.measured.golden
    batched = contents.measured.joinable and _is_joined(contents.options.previous, folder)
    inputs, outputs = _ports(contents.source, batched)
    samples = {
        name: _sample(array, batched, next(p for p in inputs if p.name == name))
        for name, array in golden.inputs.items()
    }
    library = contents.manifest.library
    mount = contents.options.mount
    config = contents.render(
        "config.pbtxt.j2",
        name=folder.name,
        max_batch=_MAX_BATCH if batched else 0,
        inputs=inputs,
        outputs=outputs,
        samples=samples,
        files={name: f"{i}" for i, name in enumerate(samples)},
        library=None if library is None or mount is None else str(mount / library.path),
    )
    warmup = {
        f"{folder}/warmup/{i}": np.ascontiguousarray(sample).tobytes()
        for i, sample in enumerate(samples.values())
        if sample.size
    }
    known = {"name": folder.name, "folder": folder, "batched": batched}
    return {
        f"{folder}/config.pbtxt": config,
        **warmup,
        "client.py": contents.render("client.py.j2", **known),
        "README.md": contents.render("triton.md.j2", **known),
    }


def _ports(source: Source, batched: bool) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    inputs, outputs = (
        tuple(_port(source, value, batched) for value in values)
        for values in (source.inputs, source.outputs)
    )
    return inputs, outputs


def _is_joined(previous: Path | None, folder: PurePosixPath) -> bool:
    """Return whether an earlier bundle, if there is one, lets Triton join requests."""
    if previous is None:
        return True
    return "max_batch_size: 0\n" not in (previous / folder / "config.pbtxt").read_text()


def _port(source: Source, value: InputInfo, batched: bool) -> Port:
    if value.dtype.name not in _TYPES:
        found = f"{value.name!r} is {value.dtype}, which Triton has no name for"
        raise BundleError(str(source.path), found, "Cast it in the model")
    dims = value.shape[1:] if batched else value.shape
    sizes = tuple(dim if isinstance(dim, int) else -1 for dim in dims)
    return Port(value.name, _TYPES[value.dtype.name], sizes or (1,), not sizes)


def _sample(array: NDArray[Any], batched: bool, port: Port) -> NDArray[Any]:
    """Return what one request of a batch of one holds of an input."""
    sample = array[0] if batched else array
    return np.reshape(sample, (1,)) if port.is_scalar else sample
