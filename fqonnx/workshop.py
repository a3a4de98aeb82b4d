"""Weights in, quantized weights out: what was done before is found, the rest is done and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from fqonnx.calibrate import Calibration, FindMoments
from fqonnx.config import CompileConfig
from fqonnx.executor import Executor, LocalExecutor
from fqonnx.layer_store import LayerStore
from fqonnx.passes import Unit
from fqonnx.progress import timed
from fqonnx.quant_job import JobResult
from fqonnx.quantize_unit import UnitTask


@dataclass(frozen=True)
class Round:
    """Weights that are calibrated together.

    Attributes:
        units: The weights.
        moments: Finds the moments of their layers' inputs.
        seeds: Of their frames' signs.
        calibration: What to calibrate on.
        behind: What their inputs depend on beside the float model and the data.
    """

    units: Sequence[Unit]
    moments: FindMoments
    seeds: Mapping[Unit, int]
    calibration: Calibration
    behind: str = ""

    def parts(self) -> list[object]:
        """Return what the moments depend on, beside the float model and the data.

        What else is summed in a round decides what the runtime can fuse, and so the last digits.
        """
        inputs = dict.fromkeys(layer.input for unit in self.units for layer in unit)
        return [self.behind, *inputs]


@dataclass(frozen=True)
class Workshop:
    """Who quantizes, and where results are kept.

    Attributes:
        executor: Runs jobs.
        store: Where results go, and stay when the process is killed; None holds them in memory.
    """

    executor: Executor = field(default_factory=LocalExecutor)
    store: LayerStore | None = None

    def quantize(
        self,
        of: Round,
        wanted: Sequence[tuple[Unit, CompileConfig]],
        description: str,
        step: str,
    ) -> list[JobResult]:
        """Quantize units of a round; the model runs on the samples only if a result is missing.

        Args:
            of: The round.
            wanted: Its units, each with options; one may be there several times.
            description: What progress is called.
            step: What the report calls the time that it takes.

        Returns:
            Results in the order of ``wanted``.

        Raises:
            ModelError: A weight is not finite, the model does not run, memory runs out, or the
                store cannot be written.
            DataError: An activation is not finite.
        """
        keys = [_key(self.store, of, unit, config) for unit, config in wanted]
        results = [None if self.store is None else self.store.find(key) for key in keys]
        missing = [place for place, result in enumerate(results) if result is None]
        if missing:
            moments = of.moments()
            tasks = [
                UnitTask(unit, of.calibration.parts(unit, moments), config, of.seeds[unit], place)
                for place in missing
                for unit, config in [wanted[place]]
            ]
            running = closing(self.executor.run(tasks))
            with timed(of.calibration.timing, step), running as finished:
                progress = of.calibration.track(missing, description)
                for _, (task, result) in zip(progress, finished, strict=True):
                    if self.store is not None:
                        result = self.store.put(keys[task.place], result)
                    results[task.place] = result
        return [result for result in results if result is not None]


def _key(store: LayerStore | None, of: Round, unit: Unit, config: CompileConfig) -> str:
    """Return what a result is stored as: whatever decides its bytes, and not the overrides."""
    if store is None:
        return ""
    return store.key(
        unit[0].weight.name,
        [layer.name for layer in unit],
        (config.recipe, config.bits, config.quantize_bias, config.seed, config.device),
        of.seeds[unit],
        *of.parts(),
    )
