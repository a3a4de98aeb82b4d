"""Training of the rows that have no published weights: plain PyTorch, about a minute each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from architectures.row import CALIBRATION, JUDGED, MODEL, TARGETS
from fqonnx.export import ExportSource, export_model

Part = Literal["training", "calibration", "judged"]
# Inputs by name, in the order of forward(), and targets, of a number of samples of a part. Parts
# have nothing in common.
Draw = Callable[[Part, int, np.random.Generator], tuple[dict[str, np.ndarray], np.ndarray]]


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        build: Makes the model, whose output is logits over the last axis.
        draw: Makes samples.
        steps: Steps of AdamW under a one-cycle schedule.
        learning_rate: At the top of the cycle.
        batch: Samples a step.
        calibration: Samples to calibrate on.
        judged: Samples to judge on.
        weight_decay: Of AdamW.
    """

    build: Callable[[], torch.nn.Module]
    draw: Draw
    steps: int
    learning_rate: float = 2e-3
    batch: int = 32
    calibration: int = 128
    judged: int = 2000
    weight_decay: float = 0.01

    def make(self, folder: Path, data: Path | None) -> None:
        """Write the files of a row."""
        export_model(source(train(self), self.draw), folder / MODEL)
        parts: tuple[tuple[str, Part, int], ...] = (
            (CALIBRATION, "calibration", self.calibration),
            (JUDGED, "judged", self.judged),
        )
        for file, part, count in parts:
            inputs, targets = self.draw(part, count, np.random.default_rng(1))
            labels = {TARGETS: targets} if file == JUDGED else {}
            np.savez(folder / file, **inputs, **labels)


def train(recipe: Recipe) -> torch.nn.Module:
    """Return the trained model, in evaluation mode."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = recipe.build().train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    for _ in range(recipe.steps):
        inputs, targets = recipe.draw("training", recipe.batch, rng)
        logits = model(*map(torch.from_numpy, inputs.values()))
        expected = torch.from_numpy(targets).flatten()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), expected)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def source(model: torch.nn.Module, draw: Draw) -> ExportSource:
    """Return what is exported: any number of samples, all other dimensions fixed."""
    inputs, _ = draw("training", 2, np.random.default_rng(0))
    return ExportSource(
        module=model.eval(),
        args=tuple(map(torch.from_numpy, inputs.values())),
        input_names=list(inputs),
        output_names=["logits"],
        dynamic_shapes=tuple({0: torch.export.Dim("batch")} for _ in inputs),
    )
