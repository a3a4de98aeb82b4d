"""Errors that a user can cause, each with what was found, where, and the way out."""

from __future__ import annotations

from typing import Any


class FqonnxError(Exception):
    """Base of every error that is the caller's to mend; the command line exits with 2.

    Args:
        where: The file, node, input or option that the error is about.
        found: What was found there, and what was expected.
        hint: What to do about it.
    """

    def __init__(self, where: str, found: str, hint: str) -> None:
        super().__init__(f"{where}: {found}. {hint}")
        self.where = where
        self.found = found
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:  # jobs may fail in other processes
        return type(self), (self.where, self.found, self.hint), self.__dict__


class ConfigError(FqonnxError):
    """An option has a value that it cannot have."""


class ModelError(FqonnxError):
    """A model file cannot be read, checked, run or written."""


class DataError(FqonnxError):
    """Calibration or comparison data does not fit the model."""


class ExportError(FqonnxError):
    """A PyTorch source cannot be turned into a correct ONNX file."""


class LibraryError(FqonnxError):
    """The native library of operators is missing or does not load."""


def first_line(error: BaseException) -> str:
    """Return the first line of a message of another library, of at most 400 characters."""
    return (str(error).strip() or type(error).__name__).split("\n")[0][:400]


def origin(error: BaseException) -> BaseException:
    """Return the first of the errors that led to this one; onnx-ir wraps each in others."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error
