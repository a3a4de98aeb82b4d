"""How measures are shown: one list for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fqonnx.diff.advice import Advice
from fqonnx.diff.layers import LayerDiff
from fqonnx.diff.metrics import OutputDiff

# Measure, what it is called, format.
_NUMBERS = (
    ("cosine", "cosine", ".4f"),
    ("sqnr_db", "SQNR, dB", ".2f"),
    ("max_abs_diff", "max abs difference", ".3g"),
    ("mean_abs_diff", "mean abs difference", ".3g"),
    ("p99_abs_diff", "99% of differences below", ".3g"),
)
_CLASSES = (
    ("top1_agreement", "top-1 agreement", ".2%"),
    ("top5_agreement", "among the float model's top 5", ".2%"),
)
_TOKENS = (
    ("kl_mean", "KL divergence, mean, nats", ".4f"),
    ("kl_median", "KL divergence, median", ".4f"),
    ("kl_p90", "KL divergence, 90% below", ".4f"),
    ("kl_p99", "KL divergence, 99% below", ".4f"),
    ("flip_rate", "most likely token changes", ".2%"),
)


@dataclass(frozen=True)
class Row:
    """One measure of an output, as text.

    Attributes:
        title: What it is.
        float_value: Of the float model, empty where that says nothing.
        compiled: Of the compiled model.
        noise: Of the float model in half precision; empty where it was not measured.
    """

    title: str
    float_value: str
    compiled: str
    noise: str = ""


def rows(output: OutputDiff, noise: OutputDiff | None = None) -> list[Row]:
    """Return what to show of an output, beside its noise floor where that is known."""
    measures = output.measures()
    floor = {} if noise is None else noise.measures()

    def compared(metric: str, title: str, form: str, float_value: str = "") -> Row:
        below = f"{floor[metric]:{form}}" if metric in floor else ""
        return Row(title, float_value, f"{measures[metric]:{form}}", below)

    shown = [compared(*entry) for entry in _NUMBERS]
    if output.classes is not None:
        shown += [compared(*entry) for entry in _CLASSES]
        if output.classes.float_accuracy is not None:
            own = f"{output.classes.float_accuracy:.2%}"
            shown.append(compared("compiled_accuracy", "accuracy", ".2%", own))
    if output.tokens is not None:
        shown += [compared(*entry) for entry in _TOKENS]
        title = f"perplexity, up to {output.tokens.context_length} tokens"
        own = f"{output.tokens.float_perplexity:.3f}"
        shown.append(compared("compiled_perplexity", title, ".3f", own))
    return shown


LAYER_HEAD = ("worst layers", "bits", "weight", "local", "accumulated", "outputs, it alone")


def layer_rows(layers: Sequence[LayerDiff], most: int = 5) -> list[tuple[str, ...]]:
    """Return cells under `LAYER_HEAD` of the layers that do most to the outputs, errors in %."""
    worst = sorted(layers, key=lambda layer: layer.model_rel_error, reverse=True)[:most]
    return [
        (
            layer.name,
            str(layer.bits),
            f"{layer.weight_rel_error:.1%}",
            f"{layer.local_rel_error:.1%}",
            f"{layer.accumulated_rel_error:.1%}",
            f"{layer.model_rel_error:.1%}",
        )
        for layer in worst
    ]


def advice_line(advice: Advice) -> str:
    """Return advice in words."""
    return (
        f"raise {advice.layer} to {advice.bits} bits: +{advice.added_bytes / 1e6:.2f} MB, "
        f"predicted squared error of the outputs {advice.predicted_change:+.0%}"
    )


def split_line(name: str, weights: OutputDiff, kernels: OutputDiff) -> str:
    """Return where the difference of an output comes from, in words."""
    return (
        f"{name}: cosine {weights.cosine:.4f} by the weights alone, {kernels.cosine:.6f} by "
        "products with activations in int8"
    )
