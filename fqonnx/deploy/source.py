"""The compiled model that a bundle is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from fqonnx.bundle import BundleError
from fqonnx.model_file import load_model
from fqonnx.runtime_ops import DOMAIN, FrameOpSpec
from fqonnx.session import InputInfo

# The first ONNX Runtime 1.N that loads a model of an IR version and of an opset: those of its
# releases 1.17 to 1.31 on models of one node.
_RUNTIME_OF_IR = {9: 17, 10: 18, 11: 23, 13: 24}
_RUNTIME_OF_OPSET = {20: 17, 21: 18, 22: 21, 23: 23, 25: 24, 26: 25}
# Earlier ones refuse function bodies with MatMulNBits.
_RUNTIME_OF_BODIES = 27


@dataclass(frozen=True)
class Source:
    """A compiled model, and what a server has to know of it.

    Attributes:
        path: Its file.
        model: What is in it.
        inputs: Graph inputs.
        outputs: Graph outputs.
        specs: Of its operators of fqonnx, those of subgraphs and functions too.
        main_specs: Of those in the main graph, which run at every run.
    """

    path: Path
    model: ir.Model
    inputs: tuple[InputInfo, ...]
    outputs: tuple[InputInfo, ...]
    specs: tuple[FrameOpSpec, ...]
    main_specs: tuple[FrameOpSpec, ...]

    @classmethod
    def load(cls, path: Path) -> Source:
        """Read a compiled model.

        Raises:
            ModelError: It cannot be read.
            BundleError: It has operators of another version of fqonnx, no inputs, or inputs or
                outputs that are no tensors of numbers.
        """
        model = load_model(path)
        try:
            specs, main_specs = (
                tuple(FrameOpSpec.of_node(node) for node in nodes if node.domain == DOMAIN)
                for nodes in (_all_nodes(model), model.graph)
            )
        except ValueError as error:
            raise BundleError(str(path), str(error), "Compile the model again") from error
        given = [v for v in model.graph.inputs if v.name not in model.graph.initializers]
        if not given:
            hint = "Store its outputs: they are the same at each run"
            raise BundleError(str(path), "it has no inputs", hint)
        return cls(
            path,
            model,
            tuple(_infos(path, given)),
            tuple(_infos(path, model.graph.outputs)),
            specs,
            main_specs,
        )

    def with_dims(self, dims: Mapping[str, int]) -> Source:
        """Return this with sizes in the place of names of dimensions."""

        def sized(values: tuple[InputInfo, ...]) -> tuple[InputInfo, ...]:
            return tuple(
                replace(value, shape=tuple(dims.get(str(dim), dim) for dim in value.shape))
                for value in values
            )

        return replace(self, inputs=sized(self.inputs), outputs=sized(self.outputs))

    @property
    def is_static(self) -> bool:
        """Whether all shapes of inputs and outputs are numbers."""
        return all(isinstance(dim, int) for v in self.inputs + self.outputs for dim in v.shape)

    @property
    def has_sample_axis(self) -> bool:
        """Whether all inputs and outputs begin with one open axis, as they do where samples do."""
        first = {v.shape[0] if v.shape else None for v in self.inputs + self.outputs}
        return len(first) == 1 and isinstance(first.pop(), str)

    @property
    def unpacked_at_load(self) -> bool:
        """Whether ONNX Runtime unpacks weights when it loads the model without the library."""
        return any(
            spec.op_type == "FrameDequant" or spec.codebook == "trellis" for spec in self.specs
        )

    def lowest_runtime(self, library_api: int | None) -> int:
        """Return the N of the lowest ONNX Runtime 1.N that loads the model.

        Args:
            library_api: What the library of operators asks for; None without it.
        """
        opset = self.model.graph.opset_imports[""]
        contrib = any(node.op_type == "MatMulNBits" for node in _all_nodes(self.model))
        needed = [
            _at_least(_RUNTIME_OF_IR, self.model.ir_version),
            _at_least(_RUNTIME_OF_OPSET, opset),
            _RUNTIME_OF_BODIES if contrib or (self.specs and library_api is None) else 0,
            library_api or 0,
        ]
        return max(needed)


def _all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Give the nodes of all graphs and functions, but for those in the bodies of our operators."""
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        if function.domain != DOMAIN:
            yield from function.all_nodes()


def _at_least(table: dict[int, int], version: int) -> int:
    return next((runtime for known, runtime in table.items() if version <= known), 31)


def _infos(path: Path, values: Sequence[ir.Value]) -> Iterator[InputInfo]:
    for value in values:
        dtype, shape = value.dtype, value.shape
        if dtype is None or dtype is ir.DataType.STRING or shape is None:
            found = f"{value.name!r} is {value.type}, expected a tensor of numbers of a known rank"
            raise BundleError(str(path), found, "Cut the model there, or export it with shapes")
        dims = tuple(dim if isinstance(dim, int) else dim.value for dim in shape)
        yield InputInfo(str(value.name), dtype.numpy(), dims)
