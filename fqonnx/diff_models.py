"""The second job: a float and a compiled model in, and how far they are apart out."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fqonnx.diff import (
    LayerDiff,
    OutputDiff,
    Threshold,
    advise,
    compare_models,
    compare_pairs,
    diff_layers,
    half_precision_session,
    judge,
    slow_paths,
)
from fqonnx.diff_report import DiffReport, ErrorSplit, SamplesReport
from fqonnx.errors import ModelError
from fqonnx.files import sha256
from fqonnx.machine import processor
from fqonnx.model_file import file_bytes
from fqonnx.model_pair import ModelPair
from fqonnx.passes import ExactProductsPass
from fqonnx.progress import Track, silent
from fqonnx.report import Compilation, ModelReport, collect_versions
from fqonnx.runtime_ops import DOMAIN
from fqonnx.segments import WHOLE_BYTES, is_whole, open_model
from fqonnx.session import Session, available_providers


def diff_models(
    pair: ModelPair, thresholds: Sequence[Threshold] = (), track: Track = silent
) -> DiffReport:
    """Compare two models, their outputs and, where one was compiled from the other, their layers.

    Args:
        pair: The models, and what they run on.
        thresholds: What the outputs must meet.
        track: Progress.

    Returns:
        The report. What could not be measured is among its warnings.

    Raises:
        FqonnxError: A model, the data or an option is not usable.
    """
    options = {
        "feeds": pair.samples.feeds,
        "kinds": pair.kinds,
        "labels": pair.labels,
        "mask_input": pair.mask_input,
        "track": track,
    }
    outputs, noise, split, warnings = _outputs(pair, options)
    whole = all(is_whole(model, WHOLE_BYTES) for model in (pair.model, pair.compiled))
    if pair.layers and not whole:
        warnings.append(
            "layers are not compared: that takes both models in memory at once, and these are too "
            "large"
        )
    layers = diff_layers(
        pair.model,
        pair.compiled,
        pair.layers if whole else [],
        pair.samples.feeds,
        mask_input=pair.mask_input,
        track=track,
    )
    samples = pair.samples
    return DiffReport(
        verdicts=judge(outputs, thresholds),
        model=_sizes(pair, layers),
        outputs=outputs,
        noise=noise,
        samples=SamplesReport(samples.source, samples.num_samples, samples.digest),
        files={str(file): sha256(file) for file in pair.files},
        versions=collect_versions(),
        machine=processor(),
        split=split,
        layers=layers,
        advice=advise(layers),
        slow=slow_paths(pair.layers),
        compilation=Compilation.of_model(pair.compiled),
        warnings=warnings,
    )


def _outputs(
    pair: ModelPair, options: Mapping[str, Any]
) -> tuple[list[OutputDiff], list[OutputDiff], ErrorSplit | None, list[str]]:
    """Return differences of outputs, the noise floor, what makes the differences, and warnings.

    No session outlives this: the layers need room for sessions of their own.
    """
    path = pair.compiled_path
    opened = functools.partial(open_model, whole_bytes=WHOLE_BYTES, track=options["track"])
    expected, actual = (opened(p, str(p)) for p in (pair.float_path, path))
    pairs, split = [(expected, actual)], None
    if pair.layers:
        exact = pair.compiled.clone()
        rounds = ExactProductsPass()(exact).modified
        between = opened(exact, f"{path} with exact products", frugal=True) if rounds else actual
        pairs += [(expected, between), (between, actual)]
    outputs, *parts = compare_pairs(pairs, compiled_path=path, **options)
    if parts:
        algorithm, kernel = parts
        split = ErrorSplit(algorithm, kernel, provider=_on_both(path, options))
    noise: list[OutputDiff] = []
    warnings = []
    try:
        half = half_precision_session(pair.float_path)
        noise = compare_models(expected, half, compiled_path=pair.float_path, **options)
    except ModelError as error:
        warnings.append(f"no noise floor: {error.found}")
    is_packed = any(node.domain == DOMAIN for node in pair.compiled.graph.all_nodes())
    if is_packed and pair.inner_layers:
        warnings.append(
            "layers inside If, Loop or Scan nodes are not compared by themselves: "
            + ", ".join(map(repr, pair.inner_layers))
        )
    elif is_packed and not pair.layers:
        warnings.append(
            "layers are not compared: none of them is known from the float model, or to this "
            "version of fqonnx"
        )
    return outputs, noise, split, warnings


def _sizes(pair: ModelPair, layers: Sequence[LayerDiff]) -> ModelReport:
    sizes = file_bytes(pair.float_path), file_bytes(pair.compiled_path)
    own = [layer for layer in layers if layer.stored_bytes]  # not those that share a weight
    weights = sum(layer.dim_in * layer.dim_out for layer in own)
    if not weights:
        return ModelReport(*sizes)
    codes = [layer.dim_in * layer.dim_out * layer.redundancy for layer in own]
    return ModelReport(
        *sizes,
        redundancy_stored=sum(codes) / weights,
        code_bits_per_weight=sum(map(operator.mul, codes, (x.bits for x in own))) / weights,
        bits_per_weight=8 * sum(layer.stored_bytes for layer in own) / weights,
    )


def _on_both(path: Path, options: Mapping[str, Any]) -> list[OutputDiff]:
    """Compare a model on the CPU with itself on the GPU, where there is one."""
    if "CUDAExecutionProvider" not in available_providers():
        return []
    on_cpu = Session(path, f"{path} on the CPU", providers=["CPUExecutionProvider"])
    on_gpu = Session(path, f"{path} on the GPU")
    return compare_models(on_cpu, on_gpu, compiled_path=path, **options)
