"""What a compilation is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fqonnx.errors import ConfigError

Lowering = Literal["fused", "stock", "onnx"]
Sides = Literal["in", "both"]
FrameKind = Literal["identity", "hadamard", "fusion"]


@dataclass(frozen=True)
class Method:
    """A choice of frame, alphabet and feedback.

    Attributes:
        name: What a user calls it.
        frame: The frame.
        feedback: ``ldlq`` feeds the rounding error of one coefficient into the next.
        alphabet: ``mid-rise`` with the best step for a Gaussian, ``two-sigma`` with FrameQuant's
            clip and integer zero point, or ``min-max`` for each group.
        sides: Whether it is on the reduction axis of a weight only, or on both.
        step_multipliers: Mid-rise steps tried per channel, relative to the best for a Gaussian.
        group_size: Codes a scale, for ``min-max``; None for one a channel.
        damping: Fraction of the mean diagonal added to that of the Hessian in the frame domain;
            None lets the calibration data decide.
        sweeps: Sweeps of coordinate descent after LDLQ.
        corrects_mean: Whether the bias of a layer takes the mean of its error away.
        least_bits: Bits below which an integer zero point leaves levels worse than zeros.
    """

    name: str
    frame: FrameKind
    feedback: Literal["none", "ldlq"]
    alphabet: Literal["mid-rise", "two-sigma", "min-max"]
    sides: Sides = "in"
    step_multipliers: tuple[float, ...] = (1.0,)
    group_size: int | None = None
    damping: float | None = None
    sweeps: int = 0
    corrects_mean: bool = False
    least_bits: int = 1


METHODS = {
    method.name: method
    for method in (
        Method(
            "auto",
            "hadamard",
            "ldlq",
            "mid-rise",
            step_multipliers=(0.85, 0.95, 1.05),
            sweeps=4,
            corrects_mean=True,
        ),
        Method(
            "framequant", "fusion", "ldlq", "two-sigma", sides="both", damping=0.01, least_bits=2
        ),
        Method("gptq", "identity", "ldlq", "min-max", group_size=128, damping=0.01, least_bits=2),
        Method("rtn", "identity", "none", "min-max", group_size=128, least_bits=2),
    )
}


@dataclass(frozen=True)
class CompileConfig:
    """Options of `fqonnx.compile_model`.

    Attributes:
        bits: Bits a coefficient, 1 to 4.
        redundancy: Frame vectors per dimension on each side that has a frame, 1 to 16.
        method: A key of `METHODS`.
        sides: Whether the frame is on the reduction axis only, or on both; None is the method's.
        sequential: Calibrate each layer on a model whose earlier layers are quantized already.
        include: Globs over weight and node names; empty means all.
        exclude: Globs over weight and node names that stay float.
        lowering: ``fused`` writes FrameMatMul nodes with a function body of ORT's own operators,
            ``stock`` writes those operators as plain nodes, ``onnx`` writes FrameMatMul nodes
            with a body of ONNX standard operators only.
        mask_input: Name of the input whose zeros mark padding; None finds it by name.
        seed: Seed of the frames' signs and of synthetic data.
        device: A torch device for the numerics.

    Raises:
        ConfigError: A value is out of range.
    """

    bits: int = 2
    redundancy: float = 1.0
    method: str = "auto"
    sides: Sides | None = None
    sequential: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    lowering: Lowering = "fused"
    mask_input: str | None = None
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("include", "exclude"):
            if isinstance(getattr(self, name), str):
                raise ConfigError(name, "found a string", "Give a tuple of patterns")
        if not (isinstance(self.seed, int) and 0 <= self.seed < 1 << 32):
            raise ConfigError("seed", f"found {self.seed}, expected 0 to 2^32 − 1", "Try seed=0")
        if self.bits not in (1, 2, 3, 4) or not isinstance(self.bits, int):
            raise ConfigError("bits", f"found {self.bits}, expected 1, 2, 3 or 4", "Try bits=2")
        if not 1.0 <= self.redundancy <= 16.0:
            raise ConfigError(
                "redundancy",
                f"found {self.redundancy}, expected 1.0 to 16.0",
                "1.0 stores least; 1.125 buys accuracy for an eighth more bytes a side",
            )
        if self.method not in METHODS:
            raise ConfigError(
                "method", f"found {self.method!r}", f"Choose one of {', '.join(METHODS)}"
            )
        if self.bits < METHODS[self.method].least_bits:
            raise ConfigError(
                "bits",
                f"method {self.method!r} has an integer zero point, which leaves two levels on one "
                f"side of zero at {self.bits} bit",
                "Use 2 bits or more, or method 'auto'",
            )
        if self.sides not in (None, "in", "both"):
            raise ConfigError("sides", f"found {self.sides!r}", "Choose one of in, both")
        if METHODS[self.method].frame == "identity" and self.sides == "both":
            raise ConfigError(
                "sides",
                f"method {self.method!r} uses no frame",
                "Use method 'auto' or 'framequant'",
            )
        if METHODS[self.method].frame == "identity" and self.redundancy != 1.0:
            raise ConfigError(
                "redundancy",
                f"method {self.method!r} uses no frame, so its redundancy is 1.0, "
                f"found {self.redundancy}",
                "Leave redundancy out, or use method 'auto'",
            )
        if self.lowering not in ("fused", "stock", "onnx"):
            raise ConfigError(
                "lowering", f"found {self.lowering!r}", "Choose one of fused, stock, onnx"
            )
