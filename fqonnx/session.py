"""ONNX Runtime sessions: one place that makes them and turns their failures into our errors."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from fqonnx.errors import ModelError, first_line
from fqonnx.model_message import message_with_files, model_bytes

# "/…/model.cc:256 onnxruntime::Model::Model(…, const Logger&) [with T = …] x > 0 was false. "
_SOURCE = re.compile(
    r"/\S+/onnxruntime/\S+:\d+ [^()]*\((?:[^()]|\([^()]*\))*\)(?: const)?(?: \[with [^]]*\])?"
    r"(?:(?:(?!was false).){0,300}was false\.)? "
)

Feed: TypeAlias = Mapping[str, NDArray[Any]]

# A message in memory is there three times until ONNX Runtime has read it, and ends at 2 GiB: from
# this size on a model reaches it with its weights in files, which it maps.
_IN_MEMORY_BYTES = 1 << 28
_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"


@dataclass(frozen=True)
class InputInfo:
    """A graph input as the runtime sees it.

    Attributes:
        name: Name of the input.
        dtype: NumPy type of its elements.
        shape: One entry a dimension: a number, the name of a symbolic dimension, or None.
        has_rank: Whether the model says how many dimensions there are; if not, the shape is empty.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]
    has_rank: bool = True


def num_samples(feed: Feed) -> int:
    """Return the samples of a batch: what its longest first axis has."""
    return max((len(array) for array in feed.values() if array.ndim), default=1)


class Runnable(Protocol):
    """A model that can be run, whole or in parts."""

    @property
    def inputs(self) -> list[InputInfo]:
        """The graph inputs, in order."""
        ...

    @property
    def output_names(self) -> list[str]:
        """The names of the graph outputs, in order."""
        ...

    @property
    def numeric_outputs(self) -> list[str]:
        """The names of the outputs that are tensors of numbers or booleans."""
        ...

    def run_all(
        self, feeds: Sequence[Feed], outputs: Sequence[str]
    ) -> Iterator[list[NDArray[Any]]]:
        """Yield the outputs for each feed."""
        ...


class Session:
    """An ONNX Runtime session of a model in memory or on disk.

    Args:
        model: A path, or a model in memory, whose external tensors are read into it.
        where: What error messages call the model.
        providers: Execution providers, in order; None takes the best that there are.
        frugal: Run the graph as it stands, node by node: weights in files stay there, what depends
            on constants alone is there while it is needed only, and the memory of a run goes back
            at its end.
        folder: For the weights of a large model in memory; None for the system's.

    Raises:
        ModelError: ONNX Runtime is missing, or does not load the model.
    """

    def __init__(
        self,
        model: Path | ir.Model,
        where: str,
        providers: Sequence[str] | None = None,
        *,
        frugal: bool = False,
        folder: Path | None = None,
    ) -> None:
        ort = _onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 4
        if providers is None:
            available = ort.get_available_providers()
            best = ("CUDAExecutionProvider", "CPUExecutionProvider")
            providers = [name for name in best if name in available]
        if frugal:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED  # as in the file
            options.enable_cpu_mem_arena = options.enable_mem_pattern = False
            # Weights in another order are copies. Besides, MatMulNBits is wrong with packed codes
            # where nothing has folded its scales.
            options.add_session_config_entry("session.disable_prepacking", "1")

        def opened(content: str | bytes) -> Any:
            return ort.InferenceSession(content, options, providers=providers)

        self._where = where
        try:
            if isinstance(model, Path):
                self._session = opened(str(model))
            elif not frugal and model_bytes(model) < _IN_MEMORY_BYTES:
                ir.external_data.load_to_model(model)  # ORT has no folder to look in
                self._session = opened(ir.to_proto(model).SerializeToString())
            else:
                with tempfile.TemporaryDirectory(prefix="fqonnx-", dir=folder) as place:
                    options.add_session_config_entry(_EXTERNAL_FOLDER, "/")
                    self._session = opened(message_with_files(model, Path(place)))
        except OSError as error:
            raise no_place(folder, f"the weights of {where}", error) from error
        except Exception as error:  # ORT's exceptions share no base class of their own
            raise ModelError(
                where,
                f"ONNX Runtime {ort.__version__} does not load it: {_reason(error)}",
                "It has no kernel for that operator in that type: convert the model to float32"
                if "NOT_IMPLEMENTED" in str(error)
                else "Check the file with onnx.checker.check_model",
            ) from error

        empty = {v.name for v in self._session.get_inputs() if not v.shape}
        self._rankless = empty and empty & _inputs_without_shape(model)

    @property
    def inputs(self) -> list[InputInfo]:
        """The graph inputs, in order.

        Raises:
            ModelError: One is not a tensor of numbers or booleans.
        """
        infos = []
        for value in self._session.get_inputs():
            if value.type not in _NUMPY_TYPES:
                raise not_numeric(self._where, value.name, value.type)
            dtype, has_rank = _NUMPY_TYPES[value.type], value.name not in self._rankless
            infos.append(InputInfo(value.name, dtype, tuple(value.shape), has_rank))
        return infos

    @property
    def output_names(self) -> list[str]:
        """The names of the graph outputs, in order."""
        return [value.name for value in self._session.get_outputs()]

    @property
    def numeric_outputs(self) -> list[str]:
        """The names of the outputs that are tensors of numbers or booleans."""
        return [v.name for v in self._session.get_outputs() if v.type in _NUMPY_TYPES]

    @property
    def providers(self) -> list[str]:
        """The execution providers that the session really uses."""
        return list(self._session.get_providers())

    def run(self, feed: Feed, outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """Run the model.

        Args:
            feed: The inputs by name.
            outputs: Names of what to return; None for all outputs.

        Raises:
            ModelError: The model rejects the feed.
        """
        if outputs is not None and not outputs:
            return []  # ONNX Runtime would return all of them
        try:
            return list(self._session.run(outputs, dict(feed)))
        except Exception as error:
            shapes = ", ".join(f"{name} {value.dtype}{value.shape}" for name, value in feed.items())
            raise ModelError(
                self._where,
                f"ONNX Runtime failed on inputs {shapes}: {_reason(error)}",
                "Check the names, shapes and types of the inputs against the model's",
            ) from error

    def run_all(
        self, feeds: Sequence[Feed], outputs: Sequence[str]
    ) -> Iterator[list[NDArray[Any]]]:
        """Yield the outputs for each feed.

        Raises:
            ModelError: The model rejects a feed.
        """
        return (self.run(feed, outputs) for feed in feeds)


def not_numeric(where: str, name: str, found: str) -> ModelError:
    """Return the error of an input that no array can be given for."""
    return ModelError(
        where,
        f"input {name!r} is {found}, expected a tensor of numbers",
        "Cut the model behind what makes numbers of it",
    )


def no_place(folder: Path | None, what: str, error: OSError) -> ModelError:
    """Return the error of a folder, None for the system's, that something does not fit into."""
    hint = "Free some, or set TMPDIR to a folder with more"
    return ModelError(str(folder or tempfile.gettempdir()), f"no place for {what}: {error}", hint)


def _reason(error: Exception) -> str:
    """Return what ONNX Runtime says, without the place in its sources."""
    return first_line(Exception(_SOURCE.sub("", str(error))))


def _inputs_without_shape(model: Path | ir.Model) -> set[str]:
    """Return what ONNX Runtime cannot tell from scalars."""
    if isinstance(model, ir.Model):
        return {str(value.name) for value in model.graph.inputs if value.shape is None}
    inputs = onnx.load(model, load_external_data=False).graph.input
    return {value.name for value in inputs if not value.type.tensor_type.HasField("shape")}


def runtime_version() -> str:
    """Return the version of the installed ONNX Runtime."""
    return str(_onnxruntime().__version__)


def available_providers() -> list[str]:
    """Return the execution providers of the installed ONNX Runtime."""
    return list(_onnxruntime().get_available_providers())


def session_options() -> Any:
    """Return ONNX Runtime's options of a session."""
    return _onnxruntime().SessionOptions()


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(
            "onnxruntime",
            "not installed",
            "Install fqonnx[cpu] or fqonnx[gpu]; the two cannot live together",
        ) from error
    return onnxruntime


_NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    f"tensor({name})": np.dtype(dtype)
    for name, dtype in {
        "float": np.float32,
        "float16": np.float16,
        "double": np.float64,
        "int8": np.int8,
        "int16": np.int16,
        "int32": np.int32,
        "int64": np.int64,
        "uint8": np.uint8,
        "uint16": np.uint16,
        "uint32": np.uint32,
        "uint64": np.uint64,
        "bool": np.bool_,
    }.items()
}

# Types of elements that arrays have on their way to the runtime and back.
NUMERIC = frozenset(map(ir.DataType.from_numpy, _NUMPY_TYPES.values()))
