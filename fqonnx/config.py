"""What a compilation is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fqonnx.errors import ConfigError

Lowering = Literal["fused", "stock", "onnx"]


@dataclass(frozen=True)
class Method:
    """A choice of frame and feedback, with the mid-rise alphabet.

    Attributes:
        name: What a user calls it.
        frame: The frame on the reduction axis.
        feedback: ``ldlq`` feeds the rounding error of one coefficient into the next.
        step_multipliers: Steps tried per channel, relative to the best step for a Gaussian.
        sweeps: Sweeps of coordinate descent after LDLQ.
        corrects_mean: Whether the bias of a layer takes the mean of its error away.
    """

    name: str
    frame: Literal["hadamard", "identity"]
    feedback: Literal["none", "ldlq"]
    step_multipliers: tuple[float, ...]
    sweeps: int = 0
    corrects_mean: bool = False


_NEAR_GAUSSIAN = (0.85, 0.95, 1.05)
_ANY_SHAPE = tuple(0.4 + 0.1 * i for i in range(22))

METHODS = {
    method.name: method
    for method in (
        Method("auto", "hadamard", "ldlq", _NEAR_GAUSSIAN, sweeps=4, corrects_mean=True),
        Method("gptq", "identity", "ldlq", (0.7, 0.85, 1.0, 1.15, 1.3)),
        Method("rtn", "identity", "none", _ANY_SHAPE),
    )
}


@dataclass(frozen=True)
class CompileConfig:
    """Options of `fqonnx.compile_model`.

    Attributes:
        bits: Bits a coefficient, 1 to 4.
        redundancy: Frame vectors per dimension, at least 1.
        method: A key of `METHODS`.
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
                "1.0 stores least; 1.125 buys accuracy for an eighth more bytes",
            )
        if self.method not in METHODS:
            raise ConfigError(
                "method", f"found {self.method!r}", f"Choose one of {', '.join(METHODS)}"
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
