"""A language model of gated recurrences as in Mamba-2, in its parallel form."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from architectures import passages
from architectures.training import Recipe


class Mamba(nn.Module):
    """Characters in, logits of the following ones out; there is no attention and no MLP."""

    def __init__(self, dim: int = 128, depth: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(passages.VOCABULARY, dim)
        self.blocks = nn.Sequential(*(MambaBlock(dim) for _ in range(depth)))
        self.norm = nn.RMSNorm(dim)
        self.head = nn.Linear(dim, passages.VOCABULARY, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return logits (batch, length, vocabulary)."""
        return self.head(self.norm(self.blocks(self.embedding(input_ids))))


class MambaBlock(nn.Module):
    """Convolution over time, then a state (head width × state) for each head:

    S_t = exp(−rate·step_t)·S_{t−1} + step_t·value_t·key_tᵀ, read by query_t. Written out, the
    output at t is a sum over earlier times with weights that cumulative sums give.
    """

    def __init__(self, dim: int, heads: int = 4, state: int = 32, width: int = 4) -> None:
        super().__init__()
        inner = 2 * dim
        mixed = inner + 2 * state
        self.heads, self.split, self.states = heads, (inner, mixed, heads), (inner, state, state)
        self.norm = nn.RMSNorm(dim)
        self.project_in = nn.Linear(dim, sum(self.split), bias=False)
        self.convolution = nn.Conv1d(mixed, mixed, width, groups=mixed, padding=width - 1)
        self.step_bias = nn.Parameter(torch.linspace(-4.0, 0.0, heads))
        self.log_rate = nn.Parameter(torch.zeros(heads))
        self.skip = nn.Parameter(torch.ones(heads, 1))
        self.gated_norm = nn.RMSNorm(inner)
        self.project_out = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the next block takes."""
        gate, mixed, step = self.project_in(self.norm(x)).split(self.split, dim=-1)
        mixed = self.convolution(mixed.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
        value, key, query = silu(mixed).split(self.states, dim=-1)
        value = value.unflatten(-1, (self.heads, -1))
        read = self._read(value, key, query, softplus(step + self.step_bias))
        read = (read + self.skip * value).flatten(2)
        return x + self.project_out(self.gated_norm(read * silu(gate)))

    def _read(self, value: Tensor, key: Tensor, query: Tensor, step: Tensor) -> Tensor:
        """Return what the states, never made, would give: (batch, length, heads, width)."""
        step = step.transpose(1, 2)
        passed = (self.log_rate.exp()[:, None] * step).cumsum(dim=-1)
        places = torch.arange(key.shape[1])
        later = places[None] > places[:, None]
        kept = passed[..., None, :] - passed[..., :, None]
        decay = kept.masked_fill(later, -torch.inf).exp()
        weight = (query @ key.transpose(1, 2))[:, None] * decay * step[..., None, :]
        return (weight @ value.transpose(1, 2)).transpose(1, 2)


MAMBA = Recipe(Mamba, passages.draw_following, steps=600, learning_rate=3e-3, judged=256)
