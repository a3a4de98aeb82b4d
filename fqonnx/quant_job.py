"""The pure part of a compilation: arrays and options in, packed arrays and figures out.

A job can be pickled, and gives the same bytes in any thread and process of one kind of machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from fqonnx.choose_codebook import why_scalar
from fqonnx.config import CompileConfig, Method
from fqonnx.errors import ModelError
from fqonnx.frames import Frame, FusionFrame, HadamardFrame, HarmonicFrame, IdentityFrame
from fqonnx.packing import tile_bytes
from fqonnx.quant import (
    Moments,
    PackedWeight,
    output_slices,
    quantize_weight,
    working_bytes,
)

_MOST_PADDED = 9 / 8  # codes that tiles of a trellis may take for one
_FLOAT_BYTES = 2 * 4  # a weight: as the file has it, and in float32


@dataclass(frozen=True)
class JobShape:
    """What is known of a job before a weight is read.

    Attributes:
        dim_in: Rows of the weight.
        dim_out: Its columns.
        config: Options of the layer.
        seed: Of the frames' signs; the next one is used too.
        has_moments: Whether there are calibration data.
    """

    dim_in: int
    dim_out: int
    config: CompileConfig
    seed: int
    has_moments: bool

    def frames(self) -> tuple[Frame, Frame]:
        """Return the frames on the reduction and on the output axis."""
        method = self.config.recipe
        return (
            _frame(method, self.dim_in, self.seed, used=method.sides != "out"),
            _frame(method, self.dim_out, self.seed + 1, used=method.sides != "in"),
        )

    @property
    def float_bytes(self) -> int:
        """Bytes of the weight in float32."""
        return 4 * self.dim_in * self.dim_out

    @property
    def num_slices(self) -> int:
        """How many threads the job can use."""
        return len(output_slices(*self.frames()))

    def memory_bytes(self, threads: int) -> int:
        """Return about how much memory the job takes, its weight included."""
        working = working_bytes(
            *self.frames(), self.config.recipe, has_moments=self.has_moments, threads=threads
        )
        return _FLOAT_BYTES * self.dim_in * self.dim_out + working


@dataclass(frozen=True)
class QuantJob:
    """A weight to be quantized, and biases of the layers that share it.

    Attributes:
        shape: Its dimensions and options.
        layer: The layer that error messages name.
        weight_name: The weight that they name.
        weight: W (dim_in, dim_out), float32.
        biases: Names and arrays (dim_out,), float32, of those to be quantized, by layer name.
        moments: Calibration moments; None takes H = I.
        rows: Calibration rows by layer name.
        correct_mean: See `fqonnx.quant.quantize_weight`.
    """

    shape: JobShape
    layer: str
    weight_name: str
    weight: NDArray[np.float32]
    biases: Mapping[str, tuple[str, NDArray[np.float32]]]
    moments: Moments | None
    rows: Mapping[str, int]
    correct_mean: bool


@dataclass(frozen=True)
class JobResult:
    """What became of a job.

    Attributes:
        weight: The quantized weight; None where it has to stay float.
        biases: Quantized biases (dim_out, 1) by layer name, the shift included.
        reason: Why the weight stays float.
        rows: Calibration rows by layer name.
    """

    weight: PackedWeight | None = None
    biases: Mapping[str, PackedWeight] = field(default_factory=dict)
    reason: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)


def run_job(job: QuantJob, threads: int = 1) -> JobResult:
    """Quantize a weight and biases.

    Args:
        job: What to do.
        threads: Slices of a large weight that are worked on at a time.

    Raises:
        ModelError: The weight is not finite, or memory runs out.
    """
    config, method = job.shape.config, job.shape.config.recipe
    if method.learns and job.shape.has_moments and job.moments is None:
        return JobResult(reason="no calibration sample has a row for it")
    given = config.bits, method.redundancy, config.runtime
    if config.chooses_codebook and why_scalar(*given, has_data=job.moments is not None):
        method = replace(method, alphabet="mid-rise")
    frame_in, frame_out = job.shape.frames()
    try:
        weight = quantize_weight(
            _finite(job, f"weight {job.weight_name!r}", job.weight),
            frame_in,
            frame_out,
            _without_padding(method, frame_in, frame_out),
            config.bits,
            job.moments,
            correct_mean=job.correct_mean,
            threads=threads,
        )
        packed = PackedWeight.of(weight)
        biases = {
            name: quantized
            for name, (what, bias) in job.biases.items()
            if (quantized := _quantized_bias(job, what, bias, packed.bias_shift))
        }
    except OverflowError as error:
        return JobResult(reason=str(error), rows=job.rows)
    except (MemoryError, RuntimeError) as error:
        # torch's error has a type of its own on CUDA only.
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise ModelError(
            f"layer {job.layer!r}",
            f"memory ran out on its {job.shape.dim_in} × {job.shape.dim_out} weights at redundancy "
            f"{method.redundancy:g}",
            "Lower the redundancy, or keep the layer float with --exclude",
        ) from error
    return JobResult(packed, biases, rows=job.rows)


def _quantized_bias(
    job: QuantJob, name: str, bias: NDArray[np.float32], shift: NDArray[np.float32] | None
) -> PackedWeight | None:
    """Return a bias with its shift as a quantized weight (dim_out, 1); None beyond its scale."""
    config, method = job.shape.config, job.shape.config.recipe
    column = _finite(job, f"bias {name!r}", bias if shift is None else bias + shift)[:, None]
    frame, one = _frame(method, job.shape.dim_out, job.shape.seed + 1), IdentityFrame(1)
    method = _without_padding(method, frame, one)
    try:
        return PackedWeight.of(quantize_weight(column, frame, one, method, config.bits))
    except OverflowError:  # no reason to keep the weight float
        return None


def _without_padding(method: Method, frame_in: Frame, frame_out: Frame) -> Method:
    """Return the method with scalar codes where whole tiles of a trellis would be padding."""
    rows, columns = frame_out.num_vectors, frame_in.num_vectors
    padded = tile_bytes(rows, columns, 1) * 8
    if method.codebook == "trellis" and padded > _MOST_PADDED * rows * columns:
        return replace(method, alphabet="mid-rise")
    return method


def _finite(job: QuantJob, what: str, array: NDArray[np.float32]) -> torch.Tensor:
    if not all(np.isfinite(rows).all() for rows in np.array_split(array, 1 + array.size // 2**22)):
        raise ModelError(
            f"{what} of {job.layer!r}",
            "it has NaN or infinite entries",
            f"Mend the model, or keep the layer float with --exclude '{job.layer}'",
        )
    return torch.from_numpy(array).to(job.shape.config.device)


def _frame(method: Method, dim: int, seed: int, *, used: bool = True) -> Frame:
    if method.frame == "identity" or not used:
        return IdentityFrame(dim)
    if method.frame == "harmonic":
        return HarmonicFrame.create(dim, method.redundancy)
    frame = HadamardFrame if method.frame == "hadamard" else FusionFrame
    return frame.create(dim, method.redundancy, seed)
