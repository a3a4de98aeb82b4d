"""A float model, the one that was compiled from it, and what both run on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from fqonnx.calibrate import (
    Samples,
    find_mask_input,
    load_labels,
    load_samples,
    synthetic_samples,
)
from fqonnx.calibrate.samples import Part
from fqonnx.diff import Kind, Labels, OutputKind, output_kinds
from fqonnx.errors import ConfigError, ModelError
from fqonnx.model_file import load_model, model_files
from fqonnx.passes import CompiledLayer, SelectWeightsPass, compiled_layers, normalize
from fqonnx.passes.verify import frame_faults
from fqonnx.runtime_ops import DOMAIN
from fqonnx.segments import open_model


@dataclass(frozen=True)
class ModelPair:
    """Two models to compare.

    Attributes:
        float_path: File of the float model.
        compiled_path: File of the compiled model.
        model: The float model, normalized as for compiling.
        compiled: The compiled model.
        layers: Its packed layers; none where it was not compiled from the other, or lowered to
            stock operators.
        inner_layers: Names of layers inside If, Loop and Scan nodes, which are not among them.
        files: All files of both, those of external data included.
        samples: What both run on.
        kinds: What the outputs are, by name.
        labels: The right classes of all samples (samples,).
        mask_input: The input whose zeros mark padding.
    """

    float_path: Path
    compiled_path: Path
    model: ir.Model
    compiled: ir.Model
    layers: list[CompiledLayer]
    inner_layers: list[str]
    files: list[Path]
    samples: Samples
    kinds: Mapping[str, OutputKind]
    labels: Labels | None
    mask_input: str | None

    @classmethod
    def load(
        cls,
        float_path: Path,
        compiled_path: Path,
        inputs: Path | str = "synthetic",
        *,
        part: Part = "all",
        labels: Path | None = None,
        kinds: Mapping[str, Kind] | None = None,
        mask_input: str | None = None,
    ) -> ModelPair:
        """Read models and data.

        Args:
            float_path: The float model.
            compiled_path: The compiled model.
            inputs: An ``.npz`` file, a folder of them or of ONNX's test data (see
                `fqonnx.calibrate.load_samples`), or ``synthetic``.
            part: Which of the samples.
            labels: An ``.npy`` file with the right class of each.
            kinds: What outputs are, by name, where that is not to be found out.
            mask_input: The input whose zeros mark padding; None looks for one.

        Raises:
            FqonnxError: A model, the data or an option is not usable.
        """
        model, compiled = load_model(float_path), load_compiled(compiled_path)
        if any(node.domain == DOMAIN for node in model.graph.all_nodes()):
            raise ModelError(str(float_path), "it is a compiled model", "Give the float one first")
        if labels is not None and str(inputs) == "synthetic":
            raise ConfigError(
                "--labels", "synthetic inputs have no right classes", "Give the labels' own inputs"
            )
        files = [*model_files(float_path, model), *model_files(compiled_path, compiled)]
        infos = open_model(float_path, str(float_path)).inputs
        if str(inputs) == "synthetic":  # others than a calibration draws
            samples = synthetic_samples(model, infos, num_samples=32, seed=1)
        else:
            samples = load_samples(Path(inputs), infos, part)
        found = output_kinds(model, kinds)
        normalize(model)
        selected = SelectWeightsPass(requantize=True)  # what the compiled file has, it has
        selected(model)
        return cls(
            float_path,
            compiled_path,
            model,
            compiled,
            compiled_layers(compiled, selected.layers),
            [layer.name for layer in selected.layers if layer.graph is not model.graph],
            files,
            samples,
            found,
            None if labels is None else load_labels(labels, samples.num_samples),
            find_mask_input(infos, mask_input),
        )


def load_compiled(path: Path) -> ir.Model:
    """Read a model that may have layers compiled.

    Raises:
        ModelError: `fqonnx.model_file.load_model` does, or a compiled layer is not what it says.
    """
    model = load_model(path)
    for name, fault in frame_faults(model):
        raise ModelError(f"{path}, node {name!r}", fault, "Compile the model again")
    return model
