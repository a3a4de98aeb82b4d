"""What the numbers of an output are, which decides how they are compared."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from fqonnx.errors import ConfigError

Kind = Literal["numbers", "classes", "tokens"]

_SCORES = re.compile(r"(logits?|prob(abilitie)?s?|scores?|class(es)?)(_?\d+)?$", re.IGNORECASE)
_SAME_VALUES = {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
_RANKS = {"classes": 2, "tokens": 3}


@dataclass(frozen=True)
class OutputKind:
    """What an output is.

    Attributes:
        kind: ``tokens`` are logits (batch, length, vocabulary) of the next token, ``classes``
            scores (batch, classes), ``numbers`` anything else.
        ids: The input of token ids (batch, length) that a language model reads.
    """

    kind: Kind
    ids: str | None = None


def output_kinds(model: ir.Model, told: Mapping[str, Kind] | None = None) -> dict[str, OutputKind]:
    """Return what the outputs of a graph are, by name.

    Logits of tokens are as many as the rows of the largest table that ids are looked up in. Scores
    of classes come from a Softmax, or are called so.

    Args:
        model: The float model.
        told: What a user says of outputs; it wins.

    Raises:
        ConfigError: It is of no output, of one of other axes, or says tokens where no ids are
            looked up.
    """
    outputs = {str(value.name): value for value in model.graph.outputs}
    tables = list(_tables(model.graph))
    kinds = {name: _found(value, tables) for name, value in outputs.items()}
    for name, kind in (told or {}).items():
        if name not in kinds:
            raise ConfigError(
                f"--kind {name}={kind}",
                f"there is no such output, only {', '.join(kinds)}",
                "Name one of them",
            )
        rank, shape = _RANKS.get(kind), outputs[name].shape
        if rank is not None and shape is not None and len(shape) != rank:
            raise ConfigError(
                f"--kind {name}={kind}",
                f"the output has {len(shape)} axes, expected {rank}",
                "Compare it as numbers",
            )
        ids = _vocabulary(outputs[name], tables)[1] if kind == "tokens" else None
        if kind == "tokens" and ids is None:
            raise ConfigError(
                f"--kind {name}={kind}",
                "the model looks up no ids (batch, length) in a table",
                "Compare it as numbers",
            )
        kinds[name] = OutputKind(kind, ids)
    return kinds


def _found(value: ir.Value, tables: Sequence[tuple[int, ir.Value]]) -> OutputKind:
    """Return what an output is by all that the graph says."""
    shape = [] if value.shape is None else list(value.shape)
    last = shape[-1] if shape and isinstance(shape[-1], int) else 0
    words, ids = _vocabulary(value, tables)
    if len(shape) == 3 and last == words and ids is not None:
        return OutputKind("tokens", ids)
    producer = value.producer()
    from_softmax = producer is not None and producer.op_type in ("Softmax", "LogSoftmax")
    if len(shape) == 2 and last > 1 and (from_softmax or _SCORES.search(str(value.name))):
        return OutputKind("classes")
    return OutputKind("numbers")


def _vocabulary(output: ir.Value, tables: Sequence[tuple[int, ir.Value]]) -> tuple[int, str | None]:
    """Return the rows of the largest table and what reads it, of the output's axes if it can."""
    words = max((rows for rows, _ in tables), default=0)
    readers = [ids for rows, ids in tables if rows == words]
    axes = [] if output.shape is None else list(output.shape)[:2]
    alike = [ids for ids in readers if ids.shape is not None and list(ids.shape) == axes]
    ids = next(iter(alike or readers), None)
    return words, None if ids is None else str(ids.name)


def _tables(graph: ir.Graph) -> Iterator[tuple[int, ir.Value]]:
    """Yield the rows of each constant table and the input (batch, length) of its rows' numbers."""
    for node in graph:
        if node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 0:
            continue
        table, ids = node.inputs
        tensor = None if table is None else ir.convenience.get_const_tensor(table)
        while ids is not None and (producer := ids.producer()) is not None:
            if producer.op_type not in _SAME_VALUES:
                break
            ids = producer.inputs[0]
        if (
            tensor is not None
            and len(tensor.shape) == 2
            and ids is not None
            and ids.is_graph_input()
            and ids.dtype is not None
            and ids.dtype.is_integer()
            and ids.shape is not None
            and len(ids.shape) == 2
        ):
            yield int(tensor.shape.numpy()[0]), ids
