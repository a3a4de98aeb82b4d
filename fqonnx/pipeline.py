"""The main job: a float model in, a compiled model and a report of it out."""

from __future__ import annotations

import dataclasses
import json
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
from fqonnx.model_file import check_file, file_bytes, load_model, save_model
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
        model = load_model(model_path)
        if output_path.exists() and output_path.samefile(model_path):
            raise ConfigError(
                str(output_path), "the output is the input", "Choose another name with -o"
            )
        float_session = Session(model_path, str(model_path))
        inputs = float_session.inputs
        mask_input = find_mask_input(inputs, config.mask_input)
        signature = graph_signature(model)
        used, compared = _samples(str(calibration), model, float_session, config, warnings)
        selected = _select(model, config)
        if not selected.layers:
            warnings.append("no layer was quantized: the report says why for each node")

    quantized, failed = _quantize(
        model, selected.layers, used, mask_input, config, timing, track, str(model_path)
    )

    with _timed(timing, "write_s"):
        rewrite = QuantizeWeightsPass(quantized, contrib=config.lowering != "onnx")
        rewrite(model)
        VerifyPass(signature)(model)
        model.metadata_props["fqonnx.version"] = version("fqonnx")
        model.metadata_props["fqonnx.options"] = json.dumps(dataclasses.asdict(config))
        if config.lowering == "stock":
            InlineFrameOpsPass()(model)
        save_model(model, output_path, lambda path: check_file(path, str(output_path)))

    with _timed(timing, "compare_s"):
        outputs = compare_models(
            float_session,
            Session(output_path, str(output_path)),
            compared.feeds,
            compiled_path=output_path,
            mask_input=mask_input,
            track=track,
        )
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
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise ConfigError(
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
            "no calibration: errors are far larger than with data; "
            "the models are compared on synthetic inputs"
        )
        return None, compared
    warnings.append(
        "synthetic calibration: inputs were drawn from the graph's types, shapes and names; "
        "real samples (--calibration FILE.npz) give a better model and a meaningful comparison"
    )
    return synthetic_samples(model, inputs, seed=config.seed), compared


def _select(model: ir.Model, config: CompileConfig) -> SelectWeightsPass:
    ShapeInferencePass()(model)  # types of values behind nodes that ONNX cannot infer
    FoldWeightsPass()(model)
    NormalizeLinearPass()(model)
    selected = SelectWeightsPass(config.include, config.exclude)
    selected(model)
    if config.include and not selected.layers:
        names = [kept.name for kept in selected.kept if kept.reason.startswith("no --include")]
        raise ConfigError(
            "--include",
            f"no layer matches {', '.join(config.include)}",
            f"Layers are, for example, {', '.join(names[:3])}"
            if names
            else "fqonnx inspect shows why no layer of this model can be quantized",
        )
    return selected


def _quantize(
    model: ir.Model,
    layers: Sequence[LinearLayer],
    samples: Samples | None,
    mask_input: str | None,
    config: CompileConfig,
    timing: dict[str, float],
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
        with _timed(timing, "quantize_s"):
            for unit in track(group, "Quantizing"):
                parts = [moments[str(layer.x.name)] for layer in unit] if moments else []
                try:
                    quantized = _quantize_unit(unit, parts, method, config, seed=len(done))
                    done.append(Replacement(unit, quantized))
                except OverflowError as error:
                    failed += [
                        Unquantized(x.name, x.op_type, (x.dim_in, x.dim_out), str(error))
                        for x in unit
                    ]
    return done, failed


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
