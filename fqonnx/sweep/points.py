"""The points of a sweep, and what is measured at each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from fqonnx.config import METHODS, CompileConfig
from fqonnx.frames import fusion_redundancy


@dataclass(frozen=True)
class SweepPoint:
    """What differs from point to point; the names are those of `CompileConfig`."""

    method: str
    bits: int
    redundancy: float

    def __str__(self) -> str:
        return f"{self.method}, {self.bits} bits, redundancy {self.redundancy:g}"


@dataclass(frozen=True)
class SweepGrid:
    """Every method with every number of bits and every redundancy.

    Attributes:
        methods: Keys of `METHODS`.
        bits: Bits a coefficient.
        redundancies: Frame vectors per dimension. Methods without a frame have 1.0 only, those with
            a fusion frame what it rounds them to.
    """

    methods: tuple[str, ...]
    bits: tuple[int, ...]
    redundancies: tuple[float, ...]

    @property
    def frameless(self) -> list[str]:
        """The methods for which the redundancies do not count."""
        return [m for m in self.methods if m in METHODS and METHODS[m].frame == "identity"]

    def plan(self, config: CompileConfig) -> dict[SweepPoint, CompileConfig]:
        """Return each point with its configuration.

        Args:
            config: The options that all points share.

        Raises:
            ConfigError: A point is not possible.
        """
        plan = {}
        for method in self.methods:
            frameless = method in self.frameless
            shared = dataclasses.replace(config, sides=None) if frameless else config
            for bits in self.bits:
                for redundancy in (1.0,) if frameless else self.redundancies:
                    point = SweepPoint(method, bits, _possible(method, redundancy))
                    plan[point] = dataclasses.replace(shared, **vars(point))
        return plan


def _possible(method: str, redundancy: float) -> float:
    fusion = method in METHODS and METHODS[method].frame == "fusion"
    return fusion_redundancy(redundancy) if fusion else redundancy


@dataclass(frozen=True)
class SweepRow:
    """One output of the model at one point: a line of ``sweep.csv``.

    Attributes:
        method: Name of the method.
        bits: Bits a coefficient.
        redundancy: As it was asked for.
        redundancy_stored: Codes of all quantized layers over their weights.
        bits_per_weight: Stored bits of all quantized layers over their weights.
        output: Name of the output.
        cosine: Mean cosine with the float model's output.
        sqnr_db: Signal to quantization noise.
        max_abs_diff: Largest difference of two entries.
        compiled_bytes: Size of the compiled model.
        seconds: What the compilation and the comparison took.
    """

    method: str
    bits: int
    redundancy: float
    redundancy_stored: float
    bits_per_weight: float
    output: str
    cosine: float
    sqnr_db: float
    max_abs_diff: float
    compiled_bytes: int
    seconds: float

    @property
    def point(self) -> SweepPoint:
        """The point that the row is about."""
        return SweepPoint(self.method, self.bits, self.redundancy)


def first_output(rows: Sequence[SweepRow]) -> list[SweepRow]:
    """Return one row a point: that of the model's first numeric output."""
    return [row for row in rows if row.output == rows[0].output]


def pareto_front(rows: Sequence[SweepRow]) -> list[SweepRow]:
    """Return the rows for which no other has as few bits per weight and a better cosine.

    Of two with the same cosine, the one with fewer bits is better.
    """

    def beats(a: SweepRow, b: SweepRow) -> bool:
        no_worse = a.bits_per_weight <= b.bits_per_weight and a.cosine >= b.cosine
        return no_worse and (a.bits_per_weight < b.bits_per_weight or a.cosine > b.cosine)

    return [
        row
        for row in rows
        if math.isfinite(row.cosine) and not any(beats(other, row) for other in rows)
    ]
