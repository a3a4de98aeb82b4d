"""One weight and the layers that share it: frames chosen, weight and biases quantized."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from fqonnx.calibrate import merge_moments
from fqonnx.config import CompileConfig, Method
from fqonnx.errors import ModelError
from fqonnx.frames import Frame, FusionFrame, HadamardFrame, HarmonicFrame, IdentityFrame
from fqonnx.packing import tile_bytes
from fqonnx.passes import LinearLayer, Replacement, Unit
from fqonnx.passes.constants import constant
from fqonnx.quant import Moments, QuantizedWeight, quantize_weight

# At 1 bit the layers before have changed the inputs so much that the mean measured on the float
# model is no longer theirs, and correcting for it does harm.
_LEAST_BITS_FOR_MEAN = 2
_MOST_PADDED = 9 / 8  # codes that tiles of a trellis may take for one


def quantize_unit(
    unit: Unit, moments: list[Moments] | None, config: CompileConfig, seed: int
) -> Replacement | str:
    """Quantize a weight, and the biases of its layers if the configuration asks for it.

    Args:
        unit: The layers that share the weight.
        moments: Of the inputs of the layers that have rows; None takes H = I.
        config: Options.
        seed: Of the frames' signs; the next one is used too.

    Returns:
        What to put in their place, or why they stay float.

    Raises:
        ModelError: The weight is not finite, or memory runs out.
    """
    layer, method = unit[0], config.recipe
    if method.learns and moments is not None and not moments:
        return "no calibration sample has a row for it"
    seed += config.seed * 1_000_003
    correct_mean = (
        method.corrects_mean
        and config.bits >= _LEAST_BITS_FOR_MEAN
        and len(unit) == 1
        and constant(layer.bias) is not None
        and not layer.has_groups  # whose rows are pooled: no output has their mean
    )
    frame_in = _frame(method, layer.dim_in, seed, used=method.sides != "out")
    frame_out = _frame(method, layer.dim_out, seed + 1, used=method.sides != "in")
    try:
        weight = quantize_weight(
            _finite(layer, "weight", layer.matrix(), config.device),
            frame_in,
            frame_out,
            _without_padding(method, frame_in, frame_out),
            config.bits,
            merge_moments(moments) if moments else None,
            correct_mean=correct_mean,
        )
        biases = {
            layer.name: bias
            for layer in unit
            if config.quantize_bias and (bias := _quantized_bias(layer, weight, config, seed + 1))
        }
    except OverflowError as error:
        return str(error)
    except (MemoryError, RuntimeError) as error:
        # torch's error has a type of its own on CUDA only.
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise ModelError(
            f"layer {layer.name!r}",
            f"memory ran out on its {layer.dim_in} × {layer.dim_out} weights at redundancy "
            f"{method.redundancy:g}",
            "Lower the redundancy, or keep the layer float with --exclude",
        ) from error
    return Replacement(unit, weight, biases)


def _quantized_bias(
    layer: LinearLayer, weight: QuantizedWeight, config: CompileConfig, seed: int
) -> QuantizedWeight | None:
    """Return the bias, its shift included, as a quantized weight (dim_out, 1).

    None if it stays as it is: no constant, or beyond what its scale can be.
    """
    tensor = constant(layer.bias)
    if tensor is None:
        return None
    bias = _finite(layer, "bias", tensor.numpy(), config.device)
    if weight.bias_shift is not None:
        bias = bias + weight.bias_shift
    method = config.recipe
    frame, one = _frame(method, layer.dim_out, seed), IdentityFrame(1)
    method = _without_padding(method, frame, one)
    try:
        return quantize_weight(bias[:, None], frame, one, method, config.bits)
    except OverflowError:  # no reason to keep the weight float
        return None


def _without_padding(method: Method, frame_in: Frame, frame_out: Frame) -> Method:
    """Return the method with scalar codes where whole tiles of a trellis would be padding."""
    rows, columns = frame_out.num_vectors, frame_in.num_vectors
    padded = tile_bytes(rows, columns, 1) * 8
    if method.codebook == "trellis" and padded > _MOST_PADDED * rows * columns:
        return replace(method, alphabet="mid-rise")
    return method


def _finite(layer: LinearLayer, what: str, array: NDArray[np.generic], device: str) -> torch.Tensor:
    tensor = torch.from_numpy(array.astype(np.float32)).to(device)
    if not bool(tensor.isfinite().all()):
        value = layer.weight if what == "weight" else layer.bias
        raise ModelError(
            f"{what} {value.name if value else None!r} of {layer.name!r}",
            "it has NaN or infinite entries",
            f"Mend the model, or keep the layer float with --exclude '{layer.name}'",
        )
    return tensor


def _frame(method: Method, dim: int, seed: int, *, used: bool = True) -> Frame:
    if method.frame == "identity" or not used:
        return IdentityFrame(dim)
    if method.frame == "harmonic":
        return HarmonicFrame.create(dim, method.redundancy)
    frame = HadamardFrame if method.frame == "hadamard" else FusionFrame
    return frame.create(dim, method.redundancy, seed)
