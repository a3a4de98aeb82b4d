"""Files and folders on disk: read, written whole, hashed, synced, and held by one process."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fqonnx.errors import ConfigError


def regular(path: Path) -> Path:
    """Return a path that is to be read, if reading it comes to an end.

    What is not there, or is a folder, is for the reader to tell.

    Raises:
        ConfigError: It is a device or a pipe, which could be waited for without end.
    """
    with suppress(OSError):
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            found = "it is a device or a pipe, expected a file"
            raise ConfigError(str(path), found, "Save it to a file")
    return path


def write_whole(path: Path, content: bytes, hint: str) -> None:
    """Write a file under a temporary name first, so that there is never half of it.

    Args:
        path: The file; what is none, such as /dev/stdout, is written to as it is.
        content: What goes into it.
        hint: What the error tells a user to do.

    Raises:
        ConfigError: It cannot be written.
    """
    special = path.is_symlink() or (path.exists() and not path.is_file())
    temporary = path.with_name(f".{path.name}.part")
    try:
        if special:
            path.write_bytes(content)
        else:
            temporary.write_bytes(content)
            temporary.replace(path)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be written: {error}", hint) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def part_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder ``.<name>.part`` beside a path, which goes when the block ends.

    What is to take the path's name is made there. What a killed process left there is removed.

    Raises:
        OSError: It cannot be made.
    """
    path = path.absolute()
    folder = path.with_name(f".{path.name}.part")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sha256(path: Path) -> str:
    """Return the hash of a file."""
    with regular(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(files: Sequence[Path]) -> str:
    """Return one hash of several files, whatever their names are."""
    return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, will outlast a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def held(folder: Path, found: str, hint: str) -> Iterator[None]:
    """Make a folder, and keep other processes out of it; what was made and is empty goes again.

    Args:
        folder: The folder.
        found: What the error says of it where another process has it.
        hint: What to do where it cannot be written.

    Raises:
        ConfigError: Another process has it, or it cannot be made.
    """
    try:
        created = [path for path in (folder, *folder.parents) if not path.exists()]
        descriptor = _locked(folder)
    except BlockingIOError as error:
        raise ConfigError(str(folder), found, f"Wait for its end. {hint}, to run both") from error
    except OSError as error:
        raise ConfigError(str(folder), f"cannot be written: {error}", hint) from error
    try:
        yield
    finally:
        with suppress(OSError):  # something is in it
            for path in created:
                path.rmdir()
        os.close(descriptor)


def _locked(folder: Path) -> int:
    """Make a folder and lock it; return its descriptor, whose end is that of the lock.

    Raises:
        BlockingIOError: Another process has it.
        OSError: It cannot be made.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # who had it has removed it meanwhile
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                _lock(descriptor)
                if os.path.samestat(os.fstat(descriptor), folder.stat()):
                    return descriptor
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Lock a folder, on a file system that has locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass
