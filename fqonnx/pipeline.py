"""The main job: a float model in, a compiled model and a report of it out."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir
import torch

from fqonnx.advisories import lost_weights, notes_on_codes, odd_options
from fqonnx.bounds import output_bounds
from fqonnx.calibrate import (
    Calibration,
    Samples,
    find_mask_input,
    load_samples,
    synthetic_samples,
)
from fqonnx.calibrate.sample_files import NO_FILES, data_files
from fqonnx.choose_bits import choose_bits
from fqonnx.config import CompileConfig
from fqonnx.diff import OutputDiff, Threshold, compare_models, output_kinds
from fqonnx.errors import ConfigError
from fqonnx.executor import Executor, LocalExecutor
from fqonnx.files import digest_of
from fqonnx.layer_reports import layer_reports, model_report
from fqonnx.layer_store import kept_layers, work_folder
from fqonnx.machine import processor
from fqonnx.model_file import check_file, check_targets, find_fault, load_model, model_files
from fqonnx.passes import (
    InlineFrameOpsPass,
    MergeFrameMatMulsPass,
    SelectWeightsPass,
    VerifyPass,
    normalize,
)
from fqonnx.passes.select_weights import NOT_INCLUDED
from fqonnx.passes.verify import graph_signature
from fqonnx.progress import Track, silent, timed
from fqonnx.quantize_layers import quantize_layers
from fqonnx.report import (
    CalibrationReport,
    Compilation,
    CompileReport,
    collect_versions,
)
from fqonnx.segments import open_model
from fqonnx.session import Runnable
from fqonnx.workshop import Workshop
from fqonnx.written_model import output_files, written_model


def compile_model(
    model_path: Path | str,
    output_path: Path | str,
    config: CompileConfig | None = None,
    *,
    calibration: Path | str = "synthetic",
    meet: Sequence[Threshold] = (),
    executor: Executor | None = None,
    track: Track = silent,
) -> CompileReport:
    """Quantize the layers of an ONNX model and compare the result with the original.

    Args:
        model_path: The float model.
        output_path: Where the compiled model goes; written only when it is whole and checked.
        config: What to do.
        calibration: An ``.npz`` file, a folder of them or of ONNX's test data (see
            `fqonnx.calibrate.load_samples`), ``synthetic`` or ``none``.
        meet: Thresholds that bits and redundancies of all layers are chosen for, so that the
            outputs meet them with the fewest stored bits.
        executor: What runs the numerics; None takes threads on all cores.
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

    with timed(timing, "load_s"):
        model = load_model(model_path)
        sources = [*model_files(model_path, model), *data_files(calibration)]
        check_targets(output_files(output_path), sources)
        float_fault = find_fault(model_path)
        if float_fault is not None:
            warnings.append(
                "the compiled file is not checked, since the float model does not pass "
                f"onnx.checker either: {float_fault}"
            )
        folder = work_folder(output_path)
        opened = functools.partial(open_model, folder=folder, track=track)
        float_model = opened(model_path, str(model_path))
        inputs, output_names = float_model.inputs, float_model.output_names
        mask_input = find_mask_input(inputs, config.mask_input)
        signature, kinds = graph_signature(model), output_kinds(model)
        used, compared = _samples(str(calibration), model, float_model, config, warnings)
        selected = _select(model, config, warnings)
        if not selected.layers:
            warnings.append("no layer was quantized: the report says why for each node")

    warnings += odd_options(config, used)
    calibrated = Calibration(
        used, mask_input, config.device, timing, track, str(model_path), folder
    )

    def compare(compiled: Runnable) -> list[OutputDiff]:
        return compare_models(
            opened(model_path, str(model_path)),
            compiled,
            feeds=compared.feeds,
            compiled_path=output_path,
            kinds=kinds,
            mask_input=mask_input,
            track=track,
        )

    executor = executor or LocalExecutor()
    with timed(timing, "load_s"):
        identity = {
            "model": digest_of(model_files(model_path, model)),
            "calibration": used and used.digest,
            "mask_input": mask_input,
            "activations": processor(),  # run here
            "numerics": executor.machines(),
            **collect_versions(),
        }
    with kept_layers(output_path, identity) as store:
        with timed(timing, "load_s"):  # a model that does not run is found here
            next(float_model.run_all(compared.feeds[:1], float_model.numeric_outputs))
        del float_model  # its weights would be in memory while others are quantized
        workshop = Workshop(executor, store)
        if config.target_bits is not None or meet:
            overrides = choose_bits(
                model,
                selected.layers,
                calibrated,
                config,
                opened(model_path, str(model_path)),
                (used or compared).feeds[0],
                meet=meet,
                compare=compare,
                warnings=warnings,
                workshop=workshop,
            )
            config = replace(config, overrides=overrides)
        quantized = quantize_layers(model, selected.layers, calibrated, config, warnings, workshop)

        with timed(timing, "rewrite_s"):
            if config.recipe.lowering != "onnx":  # whose bounds are of single layers
                MergeFrameMatMulsPass()(model)
            VerifyPass(signature)(model)
            model.metadata_props["fqonnx.version"] = version("fqonnx")
            layers = layer_reports(quantized, [*selected.kept, *quantized.failed], config)
            failed = {layer.name for layer in quantized.failed}
            warnings += [str(table) for table in selected.tables if table.layer not in failed]
            warnings += [*lost_weights(layers), *notes_on_codes(layers, config)]
            data = CalibrationReport(
                source=used.source if used else "none",
                num_samples=used.num_samples if used else 0,
                num_compared=compared.num_samples,
                compared_on=_compared_on(used, compared),
                mask_input=mask_input,
                digest=used.digest if used else None,
            )
            compilation = Compilation(layers, data, collect_versions(), config.options(), warnings)
            compilation.write(model)
            if config.recipe.lowering == "stock":
                InlineFrameOpsPass()(model)

        with written_model(model, output_path) as temporary:
            with timed(timing, "write_s"):
                if float_fault is None:
                    check_file(temporary, str(output_path))
            with timed(timing, "compare_s"):
                outputs = compare(opened(temporary, str(output_path)))
            with timed(timing, "bound_s"):
                exact = config.recipe.lowering == "onnx"
                bounds = output_bounds(model, quantized, compared.feeds, outputs) if exact else []
    sizes = model_report(model_path, output_path, quantized)
    if (sizes.bits_per_weight or 0.0) > (config.target_bits or math.inf):
        warnings.append(
            f"target_bits {config.target_bits} is less than the layers can do with: they take "
            f"{sizes.bits_per_weight:.3f}"
        )
    compared_names = {output.name for output in outputs}
    for name in output_names:
        if name not in compared_names:
            warnings.append(f"output {name!r} is not a tensor of numbers and was not compared")
    warnings += [
        f"output {output.name!r} is NaN or infinite in one of the models"
        for output in outputs
        if not math.isfinite(output.cosine)
    ]
    timing["total_s"] = time.perf_counter() - start

    return CompileReport(
        layers=layers,
        model=sizes,
        outputs=outputs,
        bounds=bounds,
        calibration=data,
        timing={name: round(seconds, 3) for name, seconds in timing.items()},
        versions=compilation.versions,
        options=compilation.options,
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
    session: Runnable,
    config: CompileConfig,
    warnings: list[str],
) -> tuple[Samples | None, Samples]:
    """Return the samples to calibrate on, None for none, and those to compare on."""
    inputs = session.inputs
    if calibration not in NO_FILES:
        path = Path(calibration)
        used, compared = (load_samples(path, inputs, p) for p in ("calibration", "held-back"))
        if used.digest == compared.digest:
            warnings.append("one sample only: the models are compared on the calibration sample")
        return used, compared
    compared = synthetic_samples(model, inputs, num_samples=32, seed=config.seed + 1)
    learns = config.recipe.learns
    if calibration == "none":
        warnings.append(
            ("no calibration: errors are usually far larger than with data; " if learns else "")
            + "the models are compared on synthetic inputs"
        )
        return None, compared
    warnings.append(
        "synthetic calibration: inputs were drawn from the graph's types, shapes and names; "
        "real samples (--calibration FILE.npz) give "
        + ("a better model and " if learns else "")
        + "a meaningful comparison"
    )
    return synthetic_samples(model, inputs, seed=config.seed), compared


def _select(model: ir.Model, config: CompileConfig, warnings: list[str]) -> SelectWeightsPass:
    normalize(model)
    selected = SelectWeightsPass(
        config.include,
        config.exclude,
        [override.pattern for override in config.overrides],
        requantize=config.requantize,
    )
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


def _compared_on(used: Samples | None, compared: Samples) -> str:
    if not compared.is_real:
        return "synthetic"
    return "calibration" if used and used.digest == compared.digest else "held-back"
