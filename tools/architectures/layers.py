"""Layers that several of the trained architectures share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention of a sequence to itself or to another one."""

    def __init__(self, dim: int, heads: int, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim, bias)
        self.key = nn.Linear(dim, dim, bias)
        self.value = nn.Linear(dim, dim, bias)
        self.out = nn.Linear(dim, dim, bias)

    def forward(self, x: Tensor, other: Tensor | None = None, added: Tensor | None = None):
        """Attend from x to the other sequence, with a term added to the scores."""
        other = x if other is None else other
        query, key, value = self.query(x), self.key(other), self.value(other)
        query, key, value = map(self._split, (query, key, value))
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        if added is not None:
            scores = scores + added
        return self.out((scores.softmax(dim=-1) @ value).transpose(-3, -2).flatten(-2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


def mlp(dim: int, hidden: int) -> nn.Sequential:
    """Return two layers with a GELU between, which take each position by itself."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))


def normal(*shape: int) -> nn.Parameter:
    """Return a parameter drawn as embeddings are."""
    return nn.Parameter(torch.randn(*shape) * 0.02)
