"""Models that do not fit into memory: one segment after the other runs on all that there is to run.

What a segment hands on waits on disk until the last segment that reads it is done.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fqonnx.model_file import load_model
from fqonnx.passes.infer_types import infer_types
from fqonnx.passes.split import Segment, is_numeric, split
from fqonnx.progress import Track, silent
from fqonnx.session import Feed, InputInfo, Runnable, Session, no_place, not_numeric

SEGMENT_BYTES = 1 << 27  # of weights in float32
WHOLE_BYTES = 1 << 30  # of a model that is compared as a user would run it


def open_model(
    model: Path | ir.Model,
    where: str,
    *,
    frugal: bool = False,
    whole_bytes: int | None = None,
    folder: Path | None = None,
    track: Track = silent,
) -> Runnable:
    """Return a session of a model, or what runs it in segments where it is large.

    Args:
        model: A path, or a model in memory, whose types are inferred where it is cut.
        where: What error messages call the model.
        frugal: As for a session; segments are in any case.
        whole_bytes: Weights of a model that is not cut; None for those of a segment.
        folder: Gets a folder for what segments hand on; None for the system's.
        track: Progress of segments.

    Raises:
        ModelError: The file is no model, or ONNX Runtime does not load it.
    """
    loaded = load_model(model) if isinstance(model, Path) else model
    if is_whole(loaded, whole_bytes or SEGMENT_BYTES):
        return Session(model, where, frugal=frugal)
    infer_types(loaded)  # what may be on its way from segment to segment goes by them
    return SegmentedModel(loaded, where, folder=folder, track=track)


def is_whole(model: ir.Model, most_bytes: int) -> bool:
    """Return whether a model would be one segment, of so many bytes of weights at most."""
    return len(split(model, most_bytes, [str(v.name) for v in model.graph.outputs])) == 1


class SegmentedModel:
    """A model that runs segment by segment.

    Args:
        model: The model.
        where: What error messages call it.
        folder: Gets a folder for what segments hand on; None for the system's.
        track: Progress.
    """

    def __init__(
        self, model: ir.Model, where: str, *, folder: Path | None = None, track: Track = silent
    ) -> None:
        self._model = model
        self._where = where
        self._folder = folder
        self._track = track

    @property
    def inputs(self) -> list[InputInfo]:
        """The graph inputs, in order.

        Raises:
            ModelError: One is not a tensor of numbers or booleans.
        """
        infos = []
        for value in self._model.graph.inputs:
            if value.is_initializer():
                continue
            if value.dtype is None or not is_numeric(value):
                raise not_numeric(self._where, str(value.name), str(value.type))
            dims = [d if isinstance(d, int) else d.value for d in value.shape or ()]
            has_rank = value.shape is not None
            infos.append(InputInfo(str(value.name), value.dtype.numpy(), tuple(dims), has_rank))
        return infos

    @property
    def output_names(self) -> list[str]:
        """The names of the graph outputs, in order."""
        return [str(value.name) for value in self._model.graph.outputs]

    @property
    def numeric_outputs(self) -> list[str]:
        """The names of the outputs that are tensors of numbers or booleans."""
        return [str(v.name) for v in self._model.graph.outputs if is_numeric(v)]

    def run_all(
        self, feeds: Sequence[Feed], outputs: Sequence[str]
    ) -> Iterator[list[NDArray[Any]]]:
        """Yield the outputs for each feed, once all segments have run on all feeds.

        Raises:
            ModelError: The model rejects a feed, or what segments hand on cannot be written.
        """
        relay = Relay(
            self._model,
            feeds,
            outputs,
            where=self._where,
            folder=self._folder,
            track=self._track,
        )
        with relay:
            for segment in relay.segments:
                relay.pass_on(segment)
            for index in range(len(feeds)):
                found = relay.values(index, outputs)
                yield [found[name] for name in outputs]


class Relay:
    """Runs a model on many feeds, segment by segment. A context: its end removes its files.

    A model of one segment runs as ONNX Runtime optimizes it, any other as it stands.

    Args:
        model: The model.
        feeds: What it runs on.
        outputs: Names of the values that are asked for in the end.
        where: What error messages call the model.
        folder: Gets a folder for what segments hand on; None for the system's.
        track: Progress.

    Attributes:
        model: The model.
        feeds: What it runs on.
        segments: Its segments, in their order.
    """

    def __init__(
        self,
        model: ir.Model,
        feeds: Sequence[Feed],
        outputs: Collection[str] = (),
        *,
        where: str,
        folder: Path | None = None,
        track: Track = silent,
    ) -> None:
        self.segments = split(model, SEGMENT_BYTES, outputs)
        self.model = model
        self.feeds = feeds
        self._outputs = frozenset(outputs)
        self._where = where
        self._parent = folder
        self._track = track
        self._stack = ExitStack()
        self._folder: Path | None = None
        self._numbers = count()
        self._held: dict[str, int] = {}  # values that have files, and their numbers

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def pass_on(self, segment: Segment) -> None:
        """Run a segment for what it hands on alone."""
        if segment.outputs:
            part = segment.extract(self.model, segment.outputs)
            for _ in self.run(segment, part, (), "Running"):
                pass

    def run(
        self, segment: Segment, part: ir.Model, wanted: Sequence[str], description: str
    ) -> Iterator[list[NDArray[Any]]]:
        """Run a segment on all feeds; hand on those of its outputs that are not wanted.

        Args:
            segment: The segment. All before it have handed on what it reads.
            part: It as a model, which is changed.
            wanted: Names of outputs of the part.
            description: Of the progress.

        Yields:
            The outputs that are wanted, for each feed.

        Raises:
            ModelError: The part does not run, or what it hands on cannot be written.
        """
        passed = [str(v.name) for v in part.graph.outputs if v.name not in wanted]
        number = self.segments.index(segment)
        self._drop_before(number)
        if (total := len(self.segments)) > 1:
            description = f"{description}, segment {number + 1} of {total}"
            first = self.values(0, segment.inputs)
            for value in part.graph.inputs:
                if (name := str(value.name)) not in self.feeds[0]:
                    value.dtype = ir.DataType.from_numpy(first[name].dtype)
                    value.shape = ir.Shape([None] * first[name].ndim)
        session = Session(part, self._where, frugal=total > 1, folder=self._parent)
        for index in self._track(range(len(self.feeds)), description):
            feed = self.values(index, segment.inputs)
            arrays = session.run(feed, [*wanted, *passed])
            self._store(index, dict(zip(passed, arrays[len(wanted) :], strict=True)))
            yield arrays[: len(wanted)]

    def values(self, index: int, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return values that the feed of an index has, or segments have handed on for it."""
        feed = self.feeds[index]
        read = (name for name in names if name not in feed and name in self._held)
        given = {name: feed[name] for name in names if name in feed}
        return given | {name: np.load(self._path(index, name)) for name in read}

    def _drop_before(self, number: int) -> None:
        """Remove what no segment from this one on reads."""
        kept = self._outputs.union(*(segment.inputs for segment in self.segments[number:]))
        for name in self._held.keys() - kept:
            for index in range(len(self.feeds)):
                self._path(index, name).unlink()
            del self._held[name]

    def _store(self, index: int, arrays: dict[str, NDArray[Any]]) -> None:
        try:
            for name, array in arrays.items():
                np.save(self._path(index, name), array, allow_pickle=False)
        except OSError as error:
            what = f"the activations between segments of {self._where}"
            raise no_place(self._folder or self._parent, what, error) from error

    def _path(self, index: int, name: str) -> Path:
        if self._folder is None:
            folder = tempfile.TemporaryDirectory(prefix=".fqonnx-", dir=self._parent)
            self._folder = Path(self._stack.enter_context(folder))
        if name not in self._held:
            self._held[name] = next(self._numbers)
        return self._folder / f"{self._held[name]}-{index}.npy"
