"""The second job: a float and a compiled model in, and how far they are apart out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fqonnx.calibrate import find_mask_input, load_labels, load_samples, synthetic_samples
from fqonnx.calibrate.samples import Part
from fqonnx.diff import (
    Kind,
    LayerDiff,
    OutputDiff,
    Threshold,
    advise,
    compare_models,
    diff_layers,
    half_precision_session,
    judge,
    output_kinds,
    slow_paths,
)
from fqonnx.diff_report import DiffReport, ErrorSplit, SamplesReport
from fqonnx.errors import ModelError
from fqonnx.machine import processor
from fqonnx.model_file import file_bytes, load_model, model_files, sha256
from fqonnx.passes import (
    ExactProductsPass,
    SelectWeightsPass,
    compiled_layers,
    normalize,
)
from fqonnx.progress import Track, silent
from fqonnx.report import Compilation, ModelReport, collect_versions
from fqonnx.session import Session, available_providers


def diff_models(
    float_path: Path,
    compiled_path: Path,
    inputs: Path | str = "synthetic",
    *,
    part: Part = "all",
    labels: Path | None = None,
    thresholds: Sequence[Threshold] = (),
    kinds: Mapping[str, Kind] | None = None,
    mask_input: str | None = None,
    track: Track = silent,
) -> DiffReport:
    """Compare two models, their outputs and, where one was compiled from the other, their layers.

    Args:
        float_path: The float model.
        compiled_path: The compiled model.
        inputs: What both run on: an ``.npz`` file or a folder of them (see
            `fqonnx.calibrate.load_samples`), or ``synthetic``.
        part: Which of the samples.
        labels: An ``.npy`` file with the right class of each.
        thresholds: What the outputs must meet.
        kinds: What outputs are, by name, where that is not to be found out.
        mask_input: The input whose zeros mark padding; None looks for one.
        track: Progress.

    Returns:
        The report. What could not be measured is among its warnings.

    Raises:
        FqonnxError: A model, the data or an option is not usable.
    """
    float_model, compiled = load_model(float_path), load_model(compiled_path)
    expected = Session(float_path, str(float_path))
    if str(inputs) == "synthetic":  # others than a calibration draws
        samples = synthetic_samples(float_model, expected.inputs, num_samples=32, seed=1)
    else:
        samples = load_samples(Path(inputs), expected.inputs, part)
    mask_input = find_mask_input(expected.inputs, mask_input)
    compare = functools.partial(
        compare_models,
        feeds=samples.feeds,
        kinds=output_kinds(float_model, kinds or {}),
        labels=None if labels is None else load_labels(labels, samples.num_samples),
        mask_input=mask_input,
        track=track,
    )
    actual = Session(compiled_path, str(compiled_path))
    outputs = compare(expected, actual, compiled_path=compiled_path)
    warnings: list[str] = []
    noise: list[OutputDiff] = []
    try:
        half = half_precision_session(float_path)
        noise = compare(expected, half, compiled_path=float_path)
    except ModelError as error:
        warnings.append(f"no noise floor: {error.found}")
    sources = model_files(float_path, float_model) + model_files(compiled_path, compiled)

    normalize(float_model)
    selected = SelectWeightsPass()
    selected(float_model)
    layers = compiled_layers(compiled, selected.layers)
    split: ErrorSplit | None = None
    layer_diffs: list[LayerDiff] = []
    if layers:
        exact = compiled.clone()
        ExactProductsPass()(exact)
        between = Session(exact, f"{compiled_path} with exact products")
        split = ErrorSplit(
            algorithm=compare(expected, between, compiled_path=compiled_path),
            kernel=compare(between, actual, compiled_path=compiled_path),
            provider=_on_both(compare, compiled_path),
        )
        del expected, actual, between
        layer_diffs = diff_layers(
            float_model, compiled, layers, samples.feeds, mask_input=mask_input, track=track
        )
    return DiffReport(
        verdicts=judge(outputs, thresholds),
        model=ModelReport(file_bytes(float_path), file_bytes(compiled_path)),
        outputs=outputs,
        noise=noise,
        samples=SamplesReport(samples.source, samples.num_samples, samples.digest),
        files={str(file): sha256(file) for file in sources},
        versions=collect_versions(),
        machine=processor(),
        split=split,
        layers=layer_diffs,
        advice=advise(layer_diffs),
        slow=slow_paths(layers),
        compilation=Compilation.of_model(compiled),
        warnings=warnings,
    )


def _on_both(compare: Callable[..., list[OutputDiff]], path: Path) -> list[OutputDiff]:
    """Compare a model on the CPU with itself on the GPU, where there is one."""
    if "CUDAExecutionProvider" not in available_providers():
        return []
    on_cpu = Session(path, f"{path} on the CPU", providers=["CPUExecutionProvider"])
    return compare(on_cpu, Session(path, f"{path} on the GPU"), compiled_path=path)
