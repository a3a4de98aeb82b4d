"""Image models, trained on two digits: CNN, DeiT and MLP-Mixer. Swin has its own module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from architectures import digits
from architectures.layers import Attention, mlp, normal
from architectures.training import Recipe


class ConvNet(nn.Module):
    """Convolutions with batch normalisation, and a head of linear layers."""

    def __init__(self, channels: int = 32, hidden: int = 256) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(1, channels),
            nn.MaxPool2d(2),
            *_convolution(channels, 2 * channels),
            nn.MaxPool2d(2),
        )
        width = 2 * channels * (digits.SIZE // 4) ** 2
        self.head = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, digits.CLASSES)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (batch, classes)."""
        return self.head(self.features(pixels).flatten(1))


class DeiT(nn.Module):
    """Vision transformer with a class token and a distillation token, each with its head.

    Both heads learn the labels; the logits are their mean, as in DeiT when it is used.
    """

    def __init__(self, dim: int = 64, depth: int = 8, heads: int = 4, patch: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, dim, patch, patch)
        self.tokens = normal(1, 2, dim)
        self.positions = normal(1, 2 + (digits.SIZE // patch) ** 2, dim)
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, digits.CLASSES)
        self.distilled_head = nn.Linear(dim, digits.CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (batch, classes)."""
        patches = self.patches(pixels).flatten(2).transpose(1, 2)
        tokens = self.tokens.expand(pixels.shape[0], -1, -1)
        x = self.norm(self.blocks(torch.cat([tokens, patches], dim=1) + self.positions))
        return (self.head(x[:, 0]) + self.distilled_head(x[:, 1])) / 2


class Block(nn.Module):
    """Attention and an MLP, each behind its LayerNorm."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the next block takes."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Mixer(nn.Module):
    """MLP-Mixer: MLPs over the patches and MLPs over the channels in turns."""

    def __init__(self, dim: int = 128, depth: int = 3, patch: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, dim, patch, patch)
        count = (digits.SIZE // patch) ** 2
        self.blocks = nn.Sequential(*(MixerBlock(count, dim) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, digits.CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (batch, classes)."""
        x = self.patches(pixels).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(dim=1))


class MixerBlock(nn.Module):
    """One MLP over the patches, one over the channels."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.token_norm = nn.LayerNorm(dim)
        self.token_mlp = mlp(count, 2 * count)
        self.channel_norm = nn.LayerNorm(dim)
        self.channel_mlp = mlp(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the next block takes."""
        x = x + self.token_mlp(self.token_norm(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channel_mlp(self.channel_norm(x))


def _convolution(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(channels_out), nn.ReLU()


# The head of the CNN has one row a picture, so it needs more of them than it has inputs.
CNN = Recipe(ConvNet, digits.draw, steps=400, calibration=4000)
DEIT = Recipe(DeiT, digits.draw, steps=800, calibration=512)
MIXER = Recipe(Mixer, digits.draw, steps=800, calibration=256)
