"""MNIST, and the two networks that Sigma-Delta is shown on: training them takes some minutes."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from architectures.training import Draw, Part, Recipe

_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_CALIBRATION = 2000  # the last training images, which training leaves out


@dataclass(frozen=True)
class Mnist:
    """The pictures, 0 to 1, as (count, 1, 28, 28), and their digits."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]

    @classmethod
    def read(cls, folder: Path) -> Mnist:
        """Read the four idx files of http://yann.lecun.com/exdb/mnist."""
        parts = {}
        for part, (images, labels) in _FILES.items():
            pixels = _read_idx(folder / images)[:, None].astype(np.float32) / 255
            parts[part] = pixels, _read_idx(folder / labels).astype(np.int64)
        return cls(**parts)

    def draw(self, *, flat: bool) -> Draw:
        """Return how samples are drawn; the calibration and the test images are all in order."""

        def drawn(
            part: Part, count: int, rng: np.random.Generator
        ) -> tuple[dict[str, np.ndarray], np.ndarray]:
            if part == "training":
                chosen = rng.integers(0, len(self.train[0]) - _CALIBRATION, count)
                pixels, digits = (array[chosen] for array in self.train)
            elif part == "calibration":
                pixels, digits = (array[-_CALIBRATION:][:count] for array in self.train)
            else:
                pixels, digits = (array[:count] for array in self.test)
            return {"pixels": pixels.reshape(len(pixels), -1) if flat else pixels}, digits

        return drawn


def _read_idx(path: Path) -> np.ndarray:
    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


class Mlp(nn.Sequential):
    """784-512-512-10 with ReLU: the feed-forward network of arXiv 2404.08131."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
        )


class ResNet(nn.Module):
    """Three residual blocks of two 3 × 3 convolutions, 16, 32 and 64 channels wide."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.blocks = nn.Sequential(_Block(16, 16), _Block(16, 32), _Block(32, 64))
        self.head = nn.Linear(64, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = self.blocks(torch.relu(self.stem(pixels)))
        return self.head(x.mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        stride = out // width
        self.first = nn.Sequential(
            nn.Conv2d(width, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out)
        )
        self.second = nn.Sequential(
            nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        )
        self.shortcut = nn.Conv2d(width, out, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.second(torch.relu(self.first(x)))
        return torch.relu(self.shortcut(x) + inner)


def recipes(folder: Path) -> dict[str, Recipe]:
    """Return how the two networks are trained, by name."""
    mnist = Mnist.read(folder)
    sizes = {"calibration": 512, "judged": len(mnist.test[0])}
    return {
        # Without this decay the weights of pixels that are always dark stay as they were drawn.
        "mlp": Recipe(Mlp, mnist.draw(flat=True), steps=6000, batch=128, weight_decay=1.0, **sizes),
        "resnet": Recipe(ResNet, mnist.draw(flat=False), steps=1500, batch=128, **sizes),
    }
