"""Write run state: temporary file beside the target, fsync, rename, fsync of the folder.

No other module does.

A process killed at any instruction leaves either the old file or the new one, never a torn one.
Names of unfinished files end in ``.partial``; :func:`sweep` removes what a killed process left.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from zprl.errors import DataError, EnvironmentProblem

if TYPE_CHECKING:
    import torch

PARTIAL = ".partial"
MAX_JSON = 4 * 2**20
"""Longest JSON document, in bytes, unless a caller knows that its own may be longer."""
BYTES_PER_VALUE = 8
"""A document may hold one value for so many bytes of its limit: an empty list takes 3 bytes of text
and 72 of memory."""
MAX_TENSOR_HEADER = 16 * 2**20
"""Longest header of a safetensors file, in bytes: some 100,000 tensors."""
LOOK_S = 0.5
"""Longest that a process is waited for which only looks whether a file is locked."""
ON_DISK = Path("/var/tmp")  # noqa: S108 (what is written there has no name)
"""Where large temporary files go: ``/tmp`` may be memory."""


def operation(name: str, path: Path) -> None:
    """Announce a write, fsync, rename or removal; fault tests replace it to strike at the n-th."""


def sync(path: Path) -> None:
    """Bring a closed file, or the names in a folder, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _explain(error: OSError, path: Path) -> EnvironmentProblem:
    if error.errno == errno.ENOSPC:
        return EnvironmentProblem(
            f"no space left while writing {path}", remedy="free some disk space and run again"
        )
    return EnvironmentProblem(
        f"cannot write {path}: {error.strerror}", remedy="check permissions and the disk, run again"
    )


@contextmanager
def replacing(path: Path | str, *, private: bool = False) -> Iterator[BinaryIO]:
    """Write the new content of ``path`` piece by piece.

    It takes its place, all or nothing, when the ``with`` block ends without error.

    Args:
        path: The file.
        private: Only its owner may read it.

    Raises:
        EnvironmentProblem: the disk is full, or it cannot be written.
    """
    path = Path(path)
    temp = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    mode = 0o600 if private else 0o666

    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            operation("write", path)
            with open(temp, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
                yield file
            publish_file(temp, path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise


def publish_file(temp: Path, path: Path) -> None:
    """Rename a closed file into place so that it survives a power cut.

    Raises:
        OSError: the disk fails; ``temp`` may still be there.
    """
    operation("fsync", path)
    sync(temp)
    operation("rename", path)
    os.replace(temp, path)
    sync(path.parent)


def private_folder(path: Path | str, *, close: bool = False) -> Path:
    """Make a folder that no other user may enter, and what is missing above it likewise.

    Args:
        path: The folder.
        close: Close one that is there already, too; by default it stays as it is, because people
            may share it.
    """
    path = Path(path)
    with explained(path):
        for each in (*reversed(path.parents), path):
            if not each.exists():
                each.mkdir(mode=0o700, exist_ok=True)
        if close:
            path.chmod(0o700)
    return path


def private_file(path: Path | str) -> None:
    """Make an empty file that no other user may read; one that is there stays as it is."""
    with explained(path), contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def scratch(folder: Path | str | None = None) -> BinaryIO:
    """Open a file without a name, which is gone with its process, however that ends.

    Args:
        folder: It lies on the disk of this folder; by default on that of temporary files.
    """
    if folder is not None:
        where = Path(folder)
    elif "TMPDIR" not in os.environ and ON_DISK.is_dir():
        where = ON_DISK
    else:
        where = Path(tempfile.gettempdir())

    with explained(where):
        where.mkdir(parents=True, exist_ok=True)
        return cast("BinaryIO", tempfile.TemporaryFile(dir=where))


@contextmanager
def explained(path: Path | str) -> Iterator[None]:
    """Turn an :class:`OSError` of the ``with`` block into an error with a remedy.

    Raises:
        EnvironmentProblem: the disk is full, or ``path`` cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise _explain(error, Path(path)) from error


def write_bytes(path: Path | str, data: bytes, *, private: bool = False) -> None:
    """Replace ``path`` with ``data``, all or nothing."""
    with replacing(path, private=private) as file:
        file.write(data)


def write_text(path: Path | str, text: str, *, private: bool = False) -> None:
    """Replace ``path`` with UTF-8 ``text``, all or nothing."""
    write_bytes(path, text.encode(), private=private)


def write_json(path: Path | str, value: Any, *, private: bool = False) -> None:
    """Replace ``path`` with indented JSON; NaN and infinity, which JSON lacks, are refused."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
    write_text(path, f"{text}\n", private=private)


def read_bytes(path: Path | str, limit: int) -> bytes:
    """Read a regular file of at most ``limit`` bytes; neither a pipe nor a device is opened.

    Raises:
        FileNotFoundError: nothing is there.
        DataError: it is longer, no file, or cannot be read.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is not a regular file", remedy="give the path of a file")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise DataError(
            f"{path} cannot be read: {error}", remedy="check its permissions and the disk"
        ) from error

    if len(data) > limit:
        raise DataError(
            f"{path} is longer than {limit} bytes",
            remedy="get it from its maker again; zprl writes none so long",
        )
    return data


def byte_length(text: bytes | str) -> int:
    """Return how many bytes a text has in UTF-8."""
    if isinstance(text, str) and not text.isascii():
        return len(text.encode("utf-8", "surrogatepass"))
    return len(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs; of a key given twice the last value would win silently."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is given twice")
    return made


def _finite(text: str) -> float:
    if math.isfinite(value := float(text)):
        return value
    raise ValueError(f"{text[:20]} is not a finite number")


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)
_WITH_NAN = json.JSONDecoder(object_pairs_hook=_unique)


def parse_json(
    text: bytes | str,
    what: str,
    *,
    limit: int = MAX_JSON,
    allow_nan: bool = False,
    remedy: str = "get it from its maker again",
) -> Any:
    """Parse JSON that anybody may have written; every reader of JSON comes here.

    Time and memory are bounded by ``limit``: a longer text, and one with more than a value for
    every :data:`BYTES_PER_VALUE` bytes of it, is refused before it is parsed.

    Args:
        text: The document.
        what: How the message names it.
        limit: Longest text, in bytes.
        allow_nan: Whether NaN and infinity are read: other programs, and our records of
            measurements, write them.
        remedy: Of the error.

    Raises:
        DataError: too long, not UTF-8, not JSON, nested too deeply, with a key given twice or an
            integer of thousands of digits.
    """
    size = byte_length(text)
    most_values = limit // BYTES_PER_VALUE
    if size > limit or (size > most_values and _value_marks(text) > most_values):
        raise DataError(
            f"{what} is longer than {limit} bytes, or holds too many values", remedy=remedy
        )
    decoder = _WITH_NAN if allow_nan else _STRICT
    try:
        return decoder.decode(text if isinstance(text, str) else text.decode())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{what} is not valid JSON: {str(error)[:200]}", remedy=remedy) from error


def _value_marks(text: bytes | str) -> int:
    """Return the number of commas and of opened lists and objects: at least one per value."""
    if isinstance(text, str):
        return sum(text.count(mark) for mark in ",[{")
    return sum(text.count(mark) for mark in (b",", b"[", b"{"))


def read_json(path: Path | str, *, limit: int = MAX_JSON, allow_nan: bool = False) -> Any:
    """Read a JSON file as :func:`parse_json` does, or raise :class:`DataError` naming it."""
    try:
        data = read_bytes(path, limit)
    except FileNotFoundError as error:
        raise DataError(
            f"{path} does not exist", remedy="run the stage that makes it (dvc repro)"
        ) from error
    return parse_json(
        data,
        str(path),
        limit=limit,
        allow_nan=allow_nan,
        remedy="delete it and run its stage again",
    )


def write_tensors(path: Path | str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Replace ``path`` with a safetensors file; same tensors give the same bytes."""
    from safetensors.torch import save

    on_cpu = {name: t.detach().cpu().contiguous() for name, t in sorted(tensors.items())}
    write_bytes(path, save(on_cpu))


def read_tensors(path: Path | str) -> dict[str, torch.Tensor]:
    """Read a safetensors file onto the CPU, or raise :class:`DataError` naming it."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        with Path(path).open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
            # The library would parse up to 100 MB of JSON.
            if header > MAX_TENSOR_HEADER:
                raise DataError(
                    f"{path} says that its header has {header} bytes",
                    remedy="restore or rebuild it",
                )
            file.seek(0)
            return load(file.read())
    except FileNotFoundError as error:
        raise DataError(
            f"{path} does not exist", remedy="run the stage that makes it (dvc repro)"
        ) from error
    except SafetensorError as error:
        raise DataError(
            f"{path} is not a readable safetensors file: {error}", remedy="restore or rebuild it"
        ) from error


def write_dir(path: Path | str, fill: Callable[[Path], None]) -> None:
    """Make folder ``path``: call ``fill`` on an empty partial folder, then rename it into place.

    An existing folder is replaced.  A kill between removing the old and renaming the new leaves no
    folder, which every reader treats as "not made yet".
    """
    temp = begin_dir(path)
    try:
        with explained(path):
            fill(temp)
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise
    publish_dir(temp, path)


def begin_dir(path: Path | str) -> Path:
    """Make an empty partial folder beside ``path``, for what is written bit by bit.

    :func:`publish_dir` gives it its name.
    """
    path = Path(path)
    # A folder has one writer at a time: its stage holds the lease.
    for stale in path.parent.glob(f"{path.name}.*{PARTIAL}"):
        shutil.rmtree(stale, ignore_errors=True)

    temp = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    with explained(path):
        temp.mkdir(parents=True)
    return temp


def publish_dir(temp: Path, path: Path | str) -> None:
    """Rename a full partial folder into place, as :func:`write_dir` does.

    Where that fails the partial folder is removed.

    Raises:
        EnvironmentProblem: the disk is full or broken.
    """
    path = Path(path)
    try:
        for inside in temp.rglob("*"):
            sync(inside)
        sync(temp)

        operation("remove", path)
        if path.exists():
            shutil.rmtree(path)
        operation("rename", path)
        os.replace(temp, path)
        sync(path.parent)
    except OSError as error:
        shutil.rmtree(temp, ignore_errors=True)
        raise _explain(error, path) from error


def sweep(folder: Path | str) -> None:
    """Remove what killed writers left directly in ``folder``.

    To be called only while no other process writes there.
    """
    for path in Path(folder).glob(f"*{PARTIAL}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def lock(fd: int) -> None:
    """Lock an open file or folder.

    A process that only looks whether it is locked holds it for an instant, which is waited for.

    Raises:
        BlockingIOError: another process keeps it.
    """
    end = time.monotonic() + LOOK_S
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def lease(file: Path) -> int:
    """Take the lease that ``file`` stands for: work in its folder is one process's at a time.

    The kernel drops the lock when its holder dies, however it dies: no stale leases, no heartbeats.

    Returns:
        A file descriptor; closing it gives the lease back.

    Raises:
        EnvironmentProblem: another process has it.
    """
    fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        lock(fd)
    except BlockingIOError as error:
        holder = os.pread(fd, 100, 0).decode(errors="replace").strip()
        os.close(fd)
        raise EnvironmentProblem(
            f"another process (pid {holder}) already works in {file.parent}",
            remedy="wait for it or stop it, then run again",
        ) from error
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def digest(path: Path | str) -> str:
    """Return the SHA-256 of a file, or of a folder's names and contents.

    It depends neither on dates and modes nor on the folder's own name.

    Raises:
        DataError: nothing is there.
    """
    path = Path(path)
    if path.is_file():
        # Files of the kernel say that they are empty, too, and reading one may never end.
        if path.stat().st_size == 0:
            return hashlib.sha256().hexdigest()
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    if not path.is_dir():
        raise DataError(f"{path} does not exist", remedy="run the stage that makes it (dvc repro)")

    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.name.endswith(PARTIAL)):
        total.update(f"{file.relative_to(path).as_posix()}\0{digest(file)}\n".encode())
    return total.hexdigest()
