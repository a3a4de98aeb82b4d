"""Encoder and decoder as in T5, trained to put back the vowels of a passage."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from architectures import passages
from architectures.layers import Attention, normal
from architectures.training import Recipe


class T5(nn.Module):
    """RMSNorm, no biases, relative position biases, cross attention.

    The decoder gets the true passage, moved by one.
    """

    def __init__(self, dim: int = 128, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(passages.VOCABULARY, dim)
        self.encoder_bias = PositionBias(heads, causal=False)
        self.encoder = nn.ModuleList(EncoderBlock(dim, heads) for _ in range(depth))
        self.encoder_norm = nn.RMSNorm(dim)
        self.decoder_bias = PositionBias(heads, causal=True)
        self.decoder = nn.ModuleList(DecoderBlock(dim, heads) for _ in range(depth))
        self.decoder_norm = nn.RMSNorm(dim)
        self.head = nn.Linear(dim, passages.VOCABULARY, bias=False)

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """Return logits (batch, length, vocabulary)."""
        seen, bias = self.embedding(input_ids), self.encoder_bias()
        for block in self.encoder:
            seen = block(seen, bias)
        seen = self.encoder_norm(seen)
        x, bias = self.embedding(decoder_input_ids), self.decoder_bias()
        for block in self.decoder:
            x = block(x, bias, seen)
        return self.head(self.decoder_norm(x))


class PositionBias(nn.Module):
    """A learned term for each head and distance; longer distances share one."""

    def __init__(self, heads: int, causal: bool, longest: int = 16) -> None:
        super().__init__()
        places = torch.arange(passages.SHORT)
        distance = places[None] - places[:, None]
        later = torch.where(distance > 0, -torch.inf, 0.0) if causal else torch.zeros(())
        self.table = normal(heads, 2 * longest + 1)
        self.register_buffer("index", distance.clamp(-longest, longest) + longest)
        self.register_buffer("later", later)

    def forward(self) -> Tensor:
        """Return (heads, length, length)."""
        return self.table[:, self.index] + self.later


class EncoderBlock(nn.Module):
    """Attention of a passage to itself, and an MLP."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(dim)
        self.attention = Attention(dim, heads, bias=False)
        self.mlp_norm = nn.RMSNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim, bias=False), nn.ReLU(), nn.Linear(4 * dim, dim, bias=False)
        )

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Return what the next block takes."""
        x = x + self.attention(self.attention_norm(x), added=bias)
        return x + self.mlp(self.mlp_norm(x))


class DecoderBlock(EncoderBlock):
    """The same with an attention to what the encoder has seen between."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads)
        self.cross_norm = nn.RMSNorm(dim)
        self.cross_attention = Attention(dim, heads, bias=False)

    def forward(self, x: Tensor, bias: Tensor, seen: Tensor) -> Tensor:
        """Return what the next block takes."""
        x = x + self.attention(self.attention_norm(x), added=bias)
        x = x + self.cross_attention(self.cross_norm(x), seen)
        return x + self.mlp(self.mlp_norm(x))


T5_VOWELS = Recipe(T5, passages.draw_vowels, steps=700, learning_rate=3e-3, judged=256)
