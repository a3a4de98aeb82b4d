"""What a user should know of a compilation that did what it was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from fqonnx.calibrate import Samples
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


def notes_on_trellis(layers: Sequence[LayerReport]) -> Iterator[str]:
    """Say what trellis codes ask of the runtime, and which layers have none of them."""
    count = Counter(layer.codebook for layer in layers)
    if not count["trellis"]:
        return
    yield (
        f"{count['trellis']} layers have trellis codes: ONNX Runtime without the library of "
        "operators decodes them to 8 bits a weight when it loads the file; codebook 'scalar', or "
        "target 'ort-stock', keeps weights packed there"
    )
    if count["scalar"]:
        yield (
            f"{count['scalar']} layers have scalar codes, by their bits or since whole tiles of a "
            "trellis would take more than an eighth more"
        )
