"""The main job: a float model in, a compiled model and a report of it out."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ShapeInferencePass

from fqonnx.calibrate import (
    Samples,
    collect_moments,
    find_mask_input,
    load_samples,
    merge_moments,
    synthetic_samples,
)
from fqonnx.config import METHODS, CompileConfig, Method
from fqonnx.diff import compare_models
from fqonnx.errors import ConfigError, ModelError
from fqonnx.frames import Frame, HadamardFrame, IdentityFrame
from fqonnx.model_file import (
    check_file,
    check_targets,
    file_bytes,
    find_fault,
    load_model,
    model_files,
    output_files,
    written_model,
)
from fqonnx.passes import (
    FoldWeightsPass,
    InlineFrameOpsPass,
    LinearLayer,
    NormalizeLinearPass,
    QuantizeWeightsPass,
    Replacement,
    SelectWeightsPass,
    Unquantized,
    VerifyPass,
)
from fqonnx.passes.select_weights import NOT_INCLUDED
from fqonnx.passes.verify import graph_signature
from fqonnx.progress import Track, silent
from fqonnx.quant import Moments, QuantizedWeight, quantize_weight
from fqonnx.report import (
    CalibrationReport,
    CompileReport,
    LayerReport,
    ModelReport,
    collect_versions,
)
from fqonnx.session import Session

# Hessians that are held at one time; more layers than this holds are calibrated in rounds.
_HESSIAN_BYTES = 1 << 29

# At 1 bit the layers before have changed the inputs so much that the mean measured on the float
# model is no longer theirs, and correcting for it does harm.
_LEAST_BITS_FOR_MEAN = 2


def compile_model(
    model_path: Path | str,
    output_path: Path | str,
    config: CompileConfig | None = None,
    *,
    calibration: Path | str = "synthetic",
    track: Track = silent,
) -> CompileReport:
    """Quantize the linear layers of an ONNX model and compare the result with the original.

    Args:
        model_path: The float model.
        output_path: Where the compiled model goes; written only when it is whole and checked.
        config: What to do.
        calibration: An ``.npz`` file or a folder of them (see `fqonnx.calibrate.load_samples`),
            ``synthetic`` or ``none``.
        track: Progress.

    Returns:
        The report.

    Raises:
        FqonnxError: The model, the data or an option is not usable; no output is written.
    """
    config = config or CompileConfig()
    model_path, output_path = Path(model_path), Path(output_path)
    timing: dict[str, float] = {}
    warnings: list[str] = []
    start = time.perf_counter()
    _check_device(config.device)

    with _timed(timing, "load_s"):
        check_targets(output_files(output_path), [*model_files(model_path), Path(calibration)])
        model = load_model(model_path)
        float_fault = find_fault(model_path)
        if float_fault is not None:
            warnings.append(
                "the compiled file is not checked, since the float model does not pass "
                f"onnx.checker either: {float_fault}"
            )
        float_session = Session(model_path, str(model_path))
        inputs = float_session.inputs
        mask_input = find_mask_input(inputs, config.mask_input)
        signature = graph_signature(model)
        used, compared = _samples(str(calibration), model, float_session, config, warnings)
        selected = _select(model, config, warnings)
        if not selected.layers:
            warnings.append("no layer was quantized: the report says why for each node")

    quantized, failed = _quantize(
        model, selected.layers, used, mask_input, config, timing, warnings, track, str(model_path)
    )

    with _timed(timing, "rewrite_s"):
        rewrite = QuantizeWeightsPass(quantized, contrib=config.lowering != "onnx")
        rewrite(model)
        VerifyPass(signature)(model)
        model.metadata_props["fqonnx.version"] = version("fqonnx")
        model.metadata_props["fqonnx.options"] = json.dumps(dataclasses.asdict(config))
        if config.lowering == "stock":
            InlineFrameOpsPass()(model)

    with written_model(model, output_path) as temporary:
        with _timed(timing, "write_s"):
            if float_fault is None:
                check_file(temporary, str(output_path))
        with _timed(timing, "compare_s"):
            compiled_session = Session(temporary, str(output_path))
            outputs = compare_models(
                float_session,
                compiled_session,
                compared.feeds,
                compiled_path=output_path,
                mask_input=mask_input,
                track=track,
            )
    compared_names = {output.name for output in outputs}
    for name in float_session.output_names:
        if name not in compared_names:
            warnings.append(f"output {name!r} is not a tensor of numbers and was not compared")
    warnings += [
        f"output {output.name!r} is NaN or infinite in one of the models"
        for output in outputs
        if not math.isfinite(output.cosine)
    ]
    timing["total_s"] = time.perf_counter() - start

    layers = [
        _layer_report(layer, replacement.quantized, rewrite.stored_bytes[layer.name], config)
        for replacement in quantized
        for layer in replacement.layers
    ]
    stored = sum(layer.stored_bytes or 0 for layer in layers)
    weights = sum(r.layers[0].dim_in * r.layers[0].dim_out for r in quantized)
    return CompileReport(
        layers=layers + [_kept_report(kept) for kept in [*selected.kept, *failed]],
        model=ModelReport(
            file_bytes(model_path),
            file_bytes(output_path),
            stored * 8 / weights if weights else None,
        ),
        outputs=outputs,
        calibration=CalibrationReport(
            source=used.source if used else "none",
            num_samples=used.num_samples if used else 0,
            num_compared=compared.num_samples,
            compared_on=_compared_on(used, compared),
            mask_input=mask_input,
            digest=used.digest if used else None,
        ),
        timing={name: round(seconds, 3) for name, seconds in timing.items()},
        versions=collect_versions(),
        options=dataclasses.asdict(config),
        warnings=warnings,
    )


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(  # torch asserts that it was built with CUDA
            "device",
            f"torch {torch.__version__} cannot use {device!r}",
            "Use cpu, or install a torch that has the device",
        ) from error


def _samples(
    calibration: str,
    model: ir.Model,
    session: Session,
    config: CompileConfig,
    warnings: list[str],
) -> tuple[Samples | None, Samples]:
    """Return the samples to calibrate on, None for none, and those to compare on."""
    inputs = session.inputs
    if calibration not in ("synthetic", "none"):
        path = Path(calibration)
        used, compared = (load_samples(path, inputs, p) for p in ("calibration", "held-back"))
        if used.digest == compared.digest:
            warnings.append("one sample only: the models are compared on the calibration sample")
        return used, compared
    compared = synthetic_samples(model, inputs, num_samples=32, seed=config.seed + 1)
    if calibration == "none":
        warnings.append(
            "no calibration: errors are usually far larger than with data; "
            "the models are compared on synthetic inputs"
        )
        return None, compared
    warnings.append(
        "synthetic calibration: inputs were drawn from the graph's types, shapes and names; "
        "real samples (--calibration FILE.npz) give a better model and a meaningful comparison"
    )
    return synthetic_samples(model, inputs, seed=config.seed), compared


def _select(model: ir.Model, config: CompileConfig, warnings: list[str]) -> SelectWeightsPass:
    _infer_types(model)
    FoldWeightsPass()(model)
    NormalizeLinearPass()(model)
    selected = SelectWeightsPass(config.include, config.exclude)
    selected(model)
    if config.include and not selected.layers:
        others = [kept for kept in selected.kept if kept.reason != NOT_INCLUDED]
        names = [kept.name for kept in selected.kept if kept.reason == NOT_INCLUDED]
        raise ConfigError(
            "--include",
            f"no layer that matches {', '.join(config.include)} can be quantized",
            f"Layers that can be are, for example, {', '.join(names[:3])}"
            if names
            else "; ".join(f"{kept.name}: {kept.reason}" for kept in others[:3])
            or "No node of this model has a weight",
        )
    warnings += [f"pattern {pattern!r} matches no layer" for pattern in selected.unmatched]
    return selected


def _infer_types(model: ir.Model) -> None:
    """Infer types of inner values; those that the graph declares for its outputs stay."""
    declared = [(value, value.type, value.shape) for value in model.graph.outputs]
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it logs a traceback where inference fails and goes on
    try:
        ShapeInferencePass()(model)
    finally:
        logger.setLevel(level)
    for value, type_, shape in declared:
        value.type, value.shape = type_, shape


def _quantize(
    model: ir.Model,
    layers: Sequence[LinearLayer],
    samples: Samples | None,
    mask_input: str | None,
    config: CompileConfig,
    timing: dict[str, float],
    warnings: list[str],
    track: Track,
    where: str,
) -> tuple[list[Replacement], list[Unquantized]]:
    """Calibrate and quantize, in rounds that bound the Hessians held at one time."""
    done: list[Replacement] = []
    failed: list[Unquantized] = []
    method = METHODS[config.method]
    for group in _rounds(_by_weight(layers)):
        moments: dict[str, Moments] = {}
        with _timed(timing, "calibrate_s"):
            if samples is not None:
                values = {str(layer.x.name): layer.dim_in for unit in group for layer in unit}
                moments = collect_moments(
                    model,
                    list(values.items()),
                    samples,
                    mask_input=mask_input,
                    device=config.device,
                    track=track,
                    where=where,
                )
                warnings += _scarce(group, moments)
        with _timed(timing, "quantize_s"):
            for unit in track(group, "Quantizing"):
                parts = [moments[n] for n in (str(x.x.name) for x in unit) if n in moments]
                if samples is not None and not parts:
                    failed += [
                        _kept(layer, "no calibration sample has a row for it") for layer in unit
                    ]
                    continue
                try:
                    quantized = _quantize_unit(unit, parts, method, config, seed=len(done))
                    done.append(Replacement(unit, quantized))
                except OverflowError as error:
                    failed += [_kept(layer, str(error)) for layer in unit]
    return done, failed


def _kept(layer: LinearLayer, reason: str) -> Unquantized:
    return Unquantized(layer.name, layer.op_type, (layer.dim_in, layer.dim_out), reason)


def _scarce(units: Sequence[tuple[LinearLayer, ...]], moments: dict[str, Moments]) -> Iterator[str]:
    """Warn where calibration rows are fewer than the dimensions that they are to describe."""
    scarce = {
        layer.name: (found.count, layer.dim_in)
        for unit in units
        for layer in unit
        if (found := moments.get(str(layer.x.name))) and found.count < layer.dim_in
    }
    if scarce:
        name, (count, dim_in) = next(iter(scarce.items()))
        yield (
            f"few calibration rows for {len(scarce)} layers, {count} for the {dim_in} inputs of "
            f"{name!r} for one: their output_rel_error is too low, and more samples would help"
        )


def _by_weight(layers: Sequence[LinearLayer]) -> list[tuple[LinearLayer, ...]]:
    """Group layers that share a weight: it is quantized once."""
    units: dict[str, list[LinearLayer]] = {}
    for layer in layers:
        units.setdefault(str(layer.weight.name), []).append(layer)
    return [tuple(unit) for unit in units.values()]


def _rounds(
    units: Sequence[tuple[LinearLayer, ...]],
) -> Iterator[list[tuple[LinearLayer, ...]]]:
    """Split units into rounds whose Hessians fit into memory, one for each distinct input."""
    group: list[tuple[LinearLayer, ...]] = []
    dims: dict[str, int] = {}
    for unit in units:
        new = {str(layer.x.name): layer.dim_in for layer in unit} | dims
        if group and sum(8 * dim**2 for dim in new.values()) > _HESSIAN_BYTES and new != dims:
            yield group
            group, new = [], {str(layer.x.name): layer.dim_in for layer in unit}
        group.append(unit)
        dims = new
    if group:
        yield group


def _quantize_unit(
    unit: tuple[LinearLayer, ...],
    moments: list[Moments],
    method: Method,
    config: CompileConfig,
    seed: int,
) -> QuantizedWeight:
    layer = unit[0]
    tensor = layer.weight.const_value
    assert tensor is not None
    weight = torch.from_numpy(tensor.numpy().astype(np.float32)).to(config.device)
    if not bool(weight.isfinite().all()):
        raise ModelError(
            f"weight {layer.weight.name!r} of {layer.name!r}",
            "it has NaN or infinite entries",
            f"Mend the model, or keep the layer float with --exclude '{layer.name}'",
        )
    return quantize_weight(
        weight,
        _frame(method, layer.dim_in, config.redundancy, config.seed * 1_000_003 + seed),
        method,
        config.bits,
        merge_moments(moments) if moments else None,
        correct_mean=(
            method.corrects_mean
            and config.bits >= _LEAST_BITS_FOR_MEAN
            and len(unit) == 1
            and layer.bias is not None
        ),
    )


def _frame(method: Method, dim: int, redundancy: float, seed: int) -> Frame:
    if method.frame == "identity":
        return IdentityFrame(dim)
    return HadamardFrame.create(dim, redundancy, seed)


def _layer_report(
    layer: LinearLayer, quantized: QuantizedWeight, stored_bytes: int, config: CompileConfig
) -> LayerReport:
    return LayerReport(
        name=layer.name,
        op_type=layer.op_type,
        dim_in=layer.dim_in,
        dim_out=layer.dim_out,
        status="quantized",
        method=config.method,
        bits=quantized.bits,
        redundancy=quantized.frame.redundancy,
        float_bytes=layer.weight_bytes,
        stored_bytes=stored_bytes,
        bits_per_weight=stored_bytes * 8 / (layer.dim_in * layer.dim_out),
        weight_rel_error=quantized.weight_rel_error,
        output_rel_error=quantized.output_rel_error,
    )


def _kept_report(kept: Unquantized) -> LayerReport:
    dim_in, dim_out = kept.shape if kept.shape and len(kept.shape) == 2 else (None, None)
    return LayerReport(kept.name, kept.op_type, dim_in, dim_out, "float", kept.reason)


def _compared_on(used: Samples | None, compared: Samples) -> str:
    if not compared.is_real:
        return "synthetic"
    return "calibration" if used and used.digest == compared.digest else "held-back"


@contextmanager
def _timed(timing: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timing[name] = timing.get(name, 0.0) + time.perf_counter() - start
