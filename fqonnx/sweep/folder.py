"""The files of a sweep: written whole, checked when they are read, by one sweep at a time."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import shutil
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fqonnx.config import CompileConfig
from fqonnx.errors import ConfigError, DataError
from fqonnx.files import write_whole
from fqonnx.report import to_json
from fqonnx.sweep.points import SweepPoint, SweepRow

NEW_FOLDER = "Choose another folder with -o"
_COLUMNS: dict[str, Any] = typing.get_type_hints(SweepRow)


class SweepFolder:
    """The files of a sweep: ``sweep.csv``, the only store of its points, and what they are about.

    Args:
        path: The folder; it need not be there.
        identity: What all points share, see `sweep_identity`.

    Raises:
        ConfigError: The folder holds a sweep of something else.
        DataError: A file in it is damaged.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.csv, self.json, self.png = (path / f"sweep.{kind}" for kind in ("csv", "json", "png"))
        self.identity = identity
        self.rows: list[SweepRow] = []
        self.load()

    def load(self) -> None:
        """Read what is there.

        Raises:
            ConfigError: The folder holds a sweep of something else.
            DataError: A file in it is damaged.
        """
        if self.csv.exists():  # without points, an identity binds nobody
            self._check_identity()
            self.rows = read_rows(self.csv)

    @property
    def points(self) -> set[SweepPoint]:
        """The points that need no work."""
        return {row.point for row in self.rows}

    def add(self, rows: Sequence[SweepRow]) -> None:
        """Store the rows of a point.

        Raises:
            ConfigError: The folder cannot be written.
        """
        if not self.rows:
            write_whole(self.json, to_json(self.identity).encode(), NEW_FOLDER)
        rows = [*self.rows, *rows]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(dataclasses.astuple(row) for row in rows)
        write_whole(self.csv, text.getvalue().encode(), NEW_FOLDER)
        self.rows = rows

    def _check_identity(self) -> None:
        try:
            found = json.loads(self.json.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise ValueError("expected an object")
        except FileNotFoundError as error:
            missing = f"there is no {self.json.name} beside it, so it may be about another model"
            raise ConfigError(str(self.csv), missing, NEW_FOLDER) from error
        except (OSError, ValueError) as error:
            raise DataError(str(self.json), f"not readable: {error}", NEW_FOLDER) from error
        expected = json.loads(to_json(self.identity))
        differing = [
            f"{key} {_brief(found.get(key))} there, {_brief(expected.get(key))} here"
            for key in {**expected, **found}
            if found.get(key) != expected.get(key)
        ]
        if differing:
            raise ConfigError(
                str(self.path),
                f"it holds another sweep ({'; '.join(differing)}), whose points would be mixed "
                "with these",
                NEW_FOLDER,
            )


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:12]}…"  # a digest


@contextmanager
def work_folder(folder: Path) -> Iterator[Path]:
    """Make a hidden folder for one compiled model; what a killed sweep left in it goes first."""
    work = folder / ".fqonnx-sweep"
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def read_rows(path: Path) -> list[SweepRow]:
    """Read ``sweep.csv``.

    Raises:
        DataError: A line is not what `SweepFolder.add` writes.
    """
    rows: dict[tuple[SweepPoint, str], SweepRow] = {}
    line = 1
    try:
        text = io.StringIO(path.read_bytes().decode(), newline="")
        reader = csv.reader(text, strict=True)
        header = next(reader, [])
        if header != list(_COLUMNS):
            raise ValueError(f"found {','.join(header)[:80]!r}, expected {','.join(_COLUMNS)!r}")
        line = reader.line_num + 1
        for fields in reader:
            row = _parse(fields)
            if (row.point, row.output) in rows:
                raise ValueError(f"output {row.output!r} of {row.point} is there twice")
            rows[row.point, row.output] = row
            line = reader.line_num + 1
    except (OSError, ValueError, csv.Error, ConfigError) as error:
        if isinstance(error, UnicodeDecodeError):
            line = error.object.count(b"\n", 0, error.start) + 1
        hint = f"{NEW_FOLDER}, or remove the lines of that point, which is then compiled again"
        raise DataError(f"{path}, line {line}", str(error), hint) from error
    return list(rows.values())


def _parse(fields: Sequence[str]) -> SweepRow:
    if len(fields) != len(_COLUMNS):
        raise ValueError(f"found {len(fields)} fields, expected {len(_COLUMNS)}")
    pairs = zip(_COLUMNS.items(), fields, strict=True)
    row = SweepRow(**{name: type_(field) for (name, type_), field in pairs})
    CompileConfig(**vars(row.point))  # for its checks
    if not math.isfinite(row.bits_per_weight):
        raise ValueError(f"found {row.bits_per_weight} bits per weight")
    return row


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(str(path), f"cannot be written: {error}", NEW_FOLDER)
