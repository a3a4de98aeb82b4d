"""Measures of an output that has the logits of the next token at each position."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fqonnx.diff.quantiles import Quantiles
from fqonnx.errors import DataError

Float = NDArray[np.float64]


@dataclass(frozen=True)
class TokenDiff:
    """How far two language models are apart on the same text.

    Attributes:
        kl_mean: Mean over positions of KL(float ‖ compiled), nats.
        kl_median: Its median.
        kl_p90: What nine in ten positions are below.
        kl_p99: What 99 in a hundred are below.
        flip_rate: Part of the positions whose most likely next token changes.
        float_perplexity: exp of the mean negative log likelihood of the tokens that follow; not a
            number where none does.
        compiled_perplexity: That of the compiled model.
        context_length: Tokens of the longest sample: all that a prediction can see.
        num_tokens: Positions compared.
    """

    kl_mean: float
    kl_median: float
    kl_p90: float
    kl_p99: float
    flip_rate: float
    float_perplexity: float
    compiled_perplexity: float
    context_length: int
    num_tokens: int


class TokenMetrics:
    """Accumulates divergence and perplexity, sample by sample."""

    def __init__(self) -> None:
        self._quantiles = Quantiles()
        self._positions = self._predicted = self._flips = self._context = 0
        self._divergence = self._float_loss = self._compiled_loss = 0.0

    def update(
        self,
        expected: NDArray[Any],
        actual: NDArray[Any],
        ids: NDArray[np.integer[Any]],
        mask: NDArray[Any] | None = None,
    ) -> None:
        """Add a batch.

        Args:
            expected: Logits of the float model (batch, length, vocabulary).
            actual: Those of the compiled model.
            ids: The tokens (batch, length).
            mask: (batch, length), zero at positions that do not count.

        Raises:
            DataError: A token is none of the vocabulary.
        """
        vocabulary = expected.shape[-1]
        beyond = ids[(ids < -vocabulary) | (ids >= vocabulary)]
        if beyond.size:
            raise DataError(
                "--kind",
                f"the samples have the token {beyond[0]}, and the output {vocabulary} of them",
                "Compare it as numbers",
            )
        for i in range(len(ids)):
            kept = np.arange(ids.shape[1]) if mask is None else np.flatnonzero(mask[i])
            self._add(_log_softmax(expected[i, kept]), _log_softmax(actual[i, kept]), ids[i], kept)

    def _add(self, expected: Float, actual: Float, ids: NDArray[Any], kept: NDArray[Any]) -> None:
        """Add the positions of a sample that are kept, given their log probabilities."""
        with np.errstate(invalid="ignore"):
            terms = np.exp(expected)
            terms *= expected - actual
        terms[np.isneginf(expected)] = 0.0  # what is impossible adds nothing
        divergence = terms.sum(axis=1).clip(min=0.0)
        flips = (expected.argmax(axis=1) != actual.argmax(axis=1)) | np.isnan(divergence)
        self._quantiles.update(divergence)
        self._divergence += float(divergence.sum())
        self._flips += int(flips.sum())
        self._positions += len(kept)
        self._context = max(self._context, len(kept))
        predicting = np.flatnonzero(np.diff(kept) == 1)  # the token that follows is kept too
        following = ids[kept[predicting] + 1]
        self._float_loss -= float(expected[predicting, following].sum())
        self._compiled_loss -= float(actual[predicting, following].sum())
        self._predicted += len(following)

    def result(self) -> TokenDiff | None:
        """Return the measures; None where there was no position."""
        if not self._positions:
            return None
        return TokenDiff(
            kl_mean=self._divergence / self._positions,
            kl_median=self._quantiles.at(0.5),
            kl_p90=self._quantiles.at(0.9),
            kl_p99=self._quantiles.at(0.99),
            flip_rate=self._flips / self._positions,
            float_perplexity=_perplexity(self._float_loss, self._predicted),
            compiled_perplexity=_perplexity(self._compiled_loss, self._predicted),
            context_length=self._context,
            num_tokens=self._positions,
        )


def _perplexity(loss: float, count: int) -> float:
    if not count:
        return math.nan
    with np.errstate(over="ignore"):
        return float(np.exp(loss / count))


def _log_softmax(logits: NDArray[Any]) -> Float:
    with np.errstate(invalid="ignore"):  # infinities give NaN
        result: Float = logits.astype(np.float64)
        result -= result.max(axis=1, keepdims=True)
        result -= np.log(np.exp(result).sum(axis=1, keepdims=True))
    return result
