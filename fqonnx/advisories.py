"""What a user should know of a compilation that did what it was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from fqonnx.calibrate import Samples
from fqonnx.choose_codebook import why_scalar
from fqonnx.config import CompileConfig
from fqonnx.frames import fusion_redundancy
from fqonnx.report import LayerReport


def odd_options(config: CompileConfig, used: Samples | None) -> Iterator[str]:
    """Warn of options that do not do what they say."""
    recipe = config.recipe
    if recipe.frame == "fusion":
        rounded = fusion_redundancy(recipe.redundancy)
        if rounded != recipe.redundancy:
            yield (
                f"redundancy {recipe.redundancy:g} is {rounded:g} a side: a fusion frame has a "
                "whole number of subspaces, in steps of an eighth"
            )
    if config.sequential and used is None:
        yield "sequential has no effect without calibration"
    elif config.sequential and not recipe.learns:
        yield f"sequential has no effect on method {config.method!r}, which learns from no data"


def lost_weights(layers: Sequence[LayerReport]) -> Iterator[str]:
    """Warn of weights that zeros would be nearer to."""
    lost = [layer.name for layer in layers if (layer.weight_rel_error or 0.0) >= 1.0]
    if lost:
        yield (
            f"the error of {lost[0]!r} and {len(lost) - 1} other layers is as large as the weight: "
            "raise the redundancy or the bits"
        )


def notes_on_codes(layers: Sequence[LayerReport], config: CompileConfig) -> Iterator[str]:
    """Say what trellis codes ask of the runtime, and why layers have scalar ones in their place."""
    count = Counter(layer.codebook for layer in layers)
    if count["trellis"]:
        yield (
            f"{count['trellis']} layers have trellis codes: ONNX Runtime without the library of "
            "operators unpacks them to 8 bits a weight when it loads the file, and takes 25 to 30 "
            "bytes a weight for that; codebook 'scalar' keeps weights packed there"
        )
    if config.chooses_codebook or config.codebook == "trellis":
        reasons = Counter(_why_scalar(x, config) for x in layers if x.codebook == "scalar")
        yield from (f"{n} layers have scalar codes: {reason}" for reason, n in reasons.items())


def _why_scalar(layer: LayerReport, config: CompileConfig) -> str:
    assert layer.bits is not None  # of each layer that has a codebook
    assert layer.redundancy_asked is not None
    chosen = None
    if config.chooses_codebook:
        has_data = layer.output_rel_error is not None
        given = layer.bits, layer.redundancy_asked, config.runtime
        chosen = why_scalar(*given, has_data=has_data)
    return chosen or "whole tiles of a trellis would take more than an eighth more"
