"""What a compilation is asked to do."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from fqonnx.choose_codebook import why_scalar
from fqonnx.errors import ConfigError

Lowering = Literal["fused", "stock", "onnx"]
Target = Literal["ort-fqonnx", "ort-stock"]
Codebook = Literal["scalar", "trellis"]
Sides = Literal["in", "out", "both"]
FrameKind = Literal["identity", "hadamard", "fusion", "harmonic"]


@dataclass(frozen=True)
class Method:
    """A choice of frame, alphabet and feedback.

    Attributes:
        name: What a user calls it.
        frame: The frame.
        feedback: What the rounding error of one coefficient does to the next: ``ldlq`` follows the
            data, ``sigma-delta`` is a fixed filter.
        alphabet: ``mid-rise`` with the best step for a Gaussian, ``range`` with the least that
            keeps Sigma-Delta stable, ``two-sigma`` with FrameQuant's clip and integer zero point,
            ``min-max`` for each group, or ``trellis`` for the code of docs/trellis.md.
        sides: Whether it is on the reduction axis of a weight, on the output axis, or on both.
        redundancy: Frame vectors per dimension where nothing else is asked for.
        order: Of Sigma-Delta, 1 or 2.
        lowering: The operators to write where nothing else is asked for.
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
    feedback: Literal["none", "ldlq", "sigma-delta"]
    alphabet: Literal["mid-rise", "range", "two-sigma", "min-max", "trellis"]
    sides: Sides = "in"
    redundancy: float = 1.0
    order: int = 1
    lowering: Lowering = "fused"
    step_multipliers: tuple[float, ...] = (1.0,)
    group_size: int | None = None
    damping: float | None = None
    sweeps: int = 0
    corrects_mean: bool = False
    least_bits: int = 1

    @property
    def codebook(self) -> Codebook:
        """How codes are stored."""
        return "trellis" if self.alphabet == "trellis" else "scalar"

    @property
    def learns(self) -> bool:
        """Whether calibration data change what is stored; else they are for its errors only."""
        return self.feedback == "ldlq"


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
        # Exact, unlike the fused operators: a bound that int8 activations break would be none.
        Method("sigma-delta", "harmonic", "sigma-delta", "range", redundancy=3.0, lowering="onnx"),
        Method("gptq", "identity", "ldlq", "min-max", group_size=128, damping=0.01, least_bits=2),
        Method("rtn", "identity", "none", "min-max", group_size=128, least_bits=2),
    )
}


@dataclass(frozen=True)
class Override:
    """Options of the layers that a glob matches.

    Attributes:
        pattern: Glob over layer, node and weight names.
        bits: In the place of the model's, where given.
        redundancy: Likewise.
    """

    pattern: str
    bits: int | None = None
    redundancy: float | None = None

    def given(self) -> dict[str, Any]:
        """Return what is not left to the model's options."""
        own = {"bits": self.bits, "redundancy": self.redundancy}
        return {name: value for name, value in own.items() if value is not None}


def matches(names: Iterable[str], pattern: str) -> bool:
    """Whether a pattern is, or as a glob matches, one of the names of a layer."""
    return any(name == pattern or fnmatchcase(name, pattern) for name in names)  # for brackets


@dataclass(frozen=True)
class CompileConfig:
    """Options of `fqonnx.compile_model`.

    Attributes:
        bits: Bits a coefficient, 1 to 4.
        redundancy: Frame vectors per dimension on each side that has a frame, 1 to 16; None is the
            method's.
        method: A key of `METHODS`.
        sides: Whether the frame is on the reduction axis, on the output axis, or on both; None is
            the method's.
        codebook: ``scalar``, or ``trellis`` for the codes of docs/trellis.md in the place of the
            method's alphabet; None is the method's, or what is better on the target.
        order: Of Sigma-Delta, 1 or 2.
        quantize_bias: Quantize the biases of the layers too.
        requantize: Quantize what a DequantizeLinear makes of a weight of integers too.
        sequential: Calibrate each layer on a model whose earlier layers are quantized already.
        include: Globs over weight and node names; empty means all.
        exclude: Globs over weight and node names that stay float.
        target_bits: Stored bits a weight, scales and all, that bits and redundancies of all layers
            are chosen for; None keeps those that are asked for.
        overrides: Layers with bits and redundancy of their own; of several the last wins.
        lowering: ``fused`` writes FrameMatMul nodes with a function body of ORT's own operators,
            ``stock`` writes those operators as plain nodes, ``onnx`` writes FrameMatMul nodes
            with an exact body of ONNX standard operators only; None is the method's.
        target: What the file is for: ``ort-fqonnx``, ONNX Runtime with the library of operators, or
            ``ort-stock``, where trellis codes would be unpacked; None goes by the lowering.
        mask_input: Name of the input whose zeros mark padding; None finds it by name.
        seed: Seed of the frames' signs and of synthetic data.
        device: A torch device for the numerics.

    Raises:
        ConfigError: A value is out of range.
    """

    bits: int = 2
    redundancy: float | None = None
    method: str = "auto"
    sides: Sides | None = None
    codebook: Codebook | None = None
    order: int = 1
    quantize_bias: bool = False
    requantize: bool = False
    sequential: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    target_bits: float | None = None
    overrides: tuple[Override, ...] = ()
    lowering: Lowering | None = None
    target: Target | None = None
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
        if self.redundancy is not None and not 1.0 <= self.redundancy <= 16.0:
            raise ConfigError(
                "redundancy",
                f"found {self.redundancy}, expected 1.0 to 16.0",
                "1.0 stores least; 1.125 buys accuracy for an eighth more bytes a side",
            )
        if self.method not in METHODS:
            raise ConfigError(
                "method", f"found {self.method!r}", f"Choose one of {', '.join(METHODS)}"
            )
        for name, kinds in _CHOICES.items():
            choices = get_args(kinds)
            if (value := getattr(self, name)) is not None and value not in choices:
                raise ConfigError(name, f"found {value!r}", f"Choose one of {', '.join(choices)}")
        if self.order not in (1, 2) or not isinstance(self.order, int):
            raise ConfigError("order", f"found {self.order}, expected 1 or 2", "Try order=1")
        if self.target_bits is not None and not 1.0 < self.target_bits <= 8.0:
            raise ConfigError(
                "target_bits",
                f"found {self.target_bits}, expected more than 1 and at most 8",
                "Scales and signs count: 2.25 is a little over the least that 2 bits take",
            )
        if self.target_bits is not None and self.redundancy is not None:
            raise ConfigError(
                "redundancy",
                f"found {self.redundancy}, and target_bits chooses that of each layer",
                "Leave one of them out",
            )
        self._check_method(self.recipe)
        for override in self.overrides:
            try:
                replace(self, target_bits=None, overrides=(), **override.given())
            except ConfigError as error:
                where = f"override of {override.pattern!r}: {error.where}"
                raise ConfigError(where, error.found, error.hint) from error

    def _check_method(self, method: Method) -> None:
        """Refuse what the method cannot do."""
        if self.bits < method.least_bits:
            raise ConfigError(
                "bits",
                f"method {method.name!r} has an integer zero point, which leaves two levels on one "
                f"side of zero at {self.bits} bit",
                "Use 2 bits or more, or method 'auto'",
            )
        if method.frame == "identity" and self.sides in ("out", "both"):
            raise ConfigError(
                "sides",
                f"method {method.name!r} uses no frame",
                "Use method 'auto' or 'framequant'",
            )
        if method.frame == "identity" and self.redundancy not in (None, 1.0):
            raise ConfigError(
                "redundancy",
                f"method {method.name!r} uses no frame, so its redundancy is 1.0, "
                f"found {self.redundancy}",
                "Leave redundancy out, or use method 'auto'",
            )
        if method.feedback == "sigma-delta" and self.codebook == "trellis":
            raise ConfigError(
                "codebook",
                "the bounds of method 'sigma-delta' are those of its own alphabet",
                "Leave codebook out, or use method 'auto'",
            )
        if self.target == "ort-fqonnx" and method.lowering == "stock":
            raise ConfigError(
                "target",
                "the lowering 'stock' leaves nothing for the library of operators to do",
                "Use lowering 'fused', or leave target out",
            )
        if method.feedback != "sigma-delta" and self.order != 1:
            raise ConfigError(
                "order",
                f"found {self.order}, and method {method.name!r} has no order",
                "Leave it out, or use method 'sigma-delta'",
            )

    def for_layer(self, names: Collection[str]) -> CompileConfig:
        """Return the options of a layer of these names."""
        own: dict[str, Any] = {}
        for override in self.overrides:
            if matches(names, override.pattern):
                own |= override.given()
        return replace(self, target_bits=None, overrides=(), **own)

    @property
    def recipe(self) -> Method:
        """The method, with what was asked for in place of its own choices."""
        method = METHODS[self.method]
        method = replace(
            method,
            sides=self.sides or method.sides,
            redundancy=method.redundancy if self.redundancy is None else self.redundancy,
            order=self.order,
            lowering=self.lowering or method.lowering,
        )
        scalar = why_scalar(self.bits, method.redundancy, self.runtime)
        if self.codebook != "trellis" and (scalar or not self.chooses_codebook):
            return method
        return replace(method, alphabet="trellis", group_size=None, least_bits=1)

    @property
    def chooses_codebook(self) -> bool:
        """Whether codes are those that `why_scalar` is about."""
        return self.codebook is None and METHODS[self.method].alphabet == "mid-rise"

    @property
    def runtime(self) -> Target:
        """The target, that of the lowering where none was asked for."""
        lowering = self.lowering or METHODS[self.method].lowering
        return self.target or ("ort-fqonnx" if lowering == "fused" else "ort-stock")

    def options(self) -> dict[str, Any]:
        """Return all options, the method's own choices where nothing was asked for."""
        recipe = self.recipe
        own = {n: getattr(recipe, n) for n in ("redundancy", "sides", "codebook", "lowering")}
        return asdict(self) | own | {"target": self.runtime}


_CHOICES = {"sides": Sides, "codebook": Codebook, "lowering": Lowering, "target": Target}
