"""Swin transformer, trained on two digits: attention in windows that shift, patches that merge."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from architectures import digits
from architectures.layers import Attention, mlp, normal
from architectures.training import Recipe

_FORBIDDEN = -100.0


class Swin(nn.Module):
    """Two stages of two blocks: 8 × 8 patches in windows of 4 × 4, then 4 × 4 in 2 × 2."""

    def __init__(self, dim: int = 32, heads: int = 2, patch: int = 2) -> None:
        super().__init__()
        side = digits.SIZE // patch
        self.patches = nn.Conv2d(1, dim, patch, patch)
        self.patch_norm = nn.LayerNorm(dim)
        self.first = _stage(dim, heads, side, window=4)
        self.merge = Merge(dim)
        self.second = _stage(2 * dim, 2 * heads, side // 2, window=2)
        self.norm = nn.LayerNorm(2 * dim)
        self.head = nn.Linear(2 * dim, digits.CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (batch, classes)."""
        x = self.patch_norm(self.patches(pixels).permute(0, 2, 3, 1))
        x = self.second(self.merge(self.first(x)))
        return self.head(self.norm(x).mean(dim=(1, 2)))


class Merge(nn.Module):
    """Four neighbours become one of twice the width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.linear = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Take (batch, side, side, dim) to (batch, side/2, side/2, 2·dim)."""
        side = x.shape[1] // 2
        return self.linear(self.norm(_windows(x, 2).flatten(2).unflatten(1, (side, side))))


class SwinBlock(nn.Module):
    """Attention in windows of (batch, side, side, dim), moved by half a window if asked."""

    def __init__(self, dim: int, heads: int, side: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.window, self.shift = window, window // 2 if shifted else 0
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.position_bias = normal(heads, (2 * window - 1) ** 2)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = mlp(dim, 4 * dim)
        self.register_buffer("position_index", _relative_positions(window))
        self.register_buffer("mask", _mask(side, window, self.shift))

    def forward(self, x: Tensor) -> Tensor:
        """Return what the next block takes."""
        moved = self.attention_norm(x).roll((-self.shift, -self.shift), (1, 2))
        added = self.position_bias[:, self.position_index] + self.mask
        attended = self.attention(_windows(moved, self.window), added=added)
        x = x + _picture(attended, self.window, x.shape[1]).roll((self.shift, self.shift), (1, 2))
        return x + self.mlp(self.mlp_norm(x))


def _stage(dim: int, heads: int, side: int, window: int) -> nn.Sequential:
    return nn.Sequential(*(SwinBlock(dim, heads, side, window, s) for s in (False, True)))


def _windows(x: Tensor, size: int) -> Tensor:
    """Take (batch, side, side, dim) to (batch, windows, size², dim)."""
    split = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))
    return split.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _picture(x: Tensor, size: int, side: int) -> Tensor:
    """Undo `_windows`."""
    split = x.unflatten(2, (size, size)).unflatten(1, (side // size, side // size))
    return split.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _relative_positions(window: int) -> Tensor:
    """Return which entry of the bias table a pair of places (window², window²) has."""
    places = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    distance = places[:, None] - places[None] + window - 1
    return distance[..., 0] * (2 * window - 1) + distance[..., 1]


def _mask(side: int, window: int, shift: int) -> Tensor:
    """Return (windows, 1, window², window²): what a shift brings together may not attend."""
    line = torch.zeros(side, dtype=torch.long)
    if shift:
        line[side - window : side - shift] = 1
        line[side - shift :] = 2
    region = _windows((3 * line[:, None] + line)[None, :, :, None], window)[0, :, :, 0]
    strangers = region[:, :, None] != region[:, None, :]
    return torch.where(strangers, _FORBIDDEN, 0.0)[:, None]


SWIN = Recipe(Swin, digits.draw, steps=800, calibration=256)
