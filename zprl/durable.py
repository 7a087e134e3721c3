"""The only module that writes run state: temp file beside the target, fsync, rename, fsync of the folder.

A process killed at any instruction leaves either the old file or the new one, never a torn one.  Names of unfinished
files end in ``.partial``; :func:`sweep` removes what a killed process left.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from zprl.errors import DataError, EnvironmentProblem

if TYPE_CHECKING:
    import torch

PARTIAL = ".partial"
ON_DISK = Path("/var/tmp")  # noqa: S108 (what is written there has no name)
"""Where large temporary files go: ``/tmp`` may be memory."""


def operation(name: str, path: Path) -> None:
    """Called before every write, fsync and rename; fault tests replace it to strike at the n-th one."""


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _explain(error: OSError, path: Path) -> EnvironmentProblem:
    if error.errno == errno.ENOSPC:
        return EnvironmentProblem(f"no space left while writing {path}", remedy="free some disk space and run again")
    return EnvironmentProblem(f"cannot write {path}: {error.strerror}", remedy="check permissions and the disk, run again")


@contextmanager
def replacing(path: Path | str) -> Iterator[BinaryIO]:
    """Write the new content of ``path`` piece by piece: it takes its place, all or nothing, when the ``with`` block ends without error."""
    path = Path(path)
    temp = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        operation("write", path)
        with open(temp, "wb") as file:
            yield file
            file.flush()
            operation("fsync", path)
            os.fsync(file.fileno())
        operation("rename", path)
        os.replace(temp, path)
        sync(path.parent)
    except OSError as error:
        temp.unlink(missing_ok=True)
        raise _explain(error, path) from error
    except BaseException:
        temp.unlink(missing_ok=True)
        raise


def private_folder(path: Path | str) -> Path:
    """Make a folder that no other user may enter, and what is missing above it likewise; one that is there stays as it is."""
    path = Path(path)
    with explained(path):
        for each in (*reversed(path.parents), path):
            if not each.exists():
                each.mkdir(mode=0o700, exist_ok=True)
    return path


def private_file(path: Path | str) -> None:
    """Make an empty file that no other user may read; one that is there stays as it is."""
    with explained(path), contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def scratch(folder: Path | str | None = None) -> BinaryIO:
    """A file without a name on the disk of ``folder`` (default: of temporary files): it is gone with its process, however that ends."""
    where = ON_DISK if "TMPDIR" not in os.environ and ON_DISK.is_dir() else Path(tempfile.gettempdir())
    where = where if folder is None else Path(folder)
    with explained(where):
        where.mkdir(parents=True, exist_ok=True)
        return cast("BinaryIO", tempfile.TemporaryFile(dir=where))


@contextmanager
def explained(path: Path | str) -> Iterator[None]:
    """Turn an :class:`OSError` of the ``with`` block, such as a full disk, into an :class:`EnvironmentProblem` with a remedy."""
    try:
        yield
    except OSError as error:
        raise _explain(error, Path(path)) from error


def write_bytes(path: Path | str, data: bytes) -> None:
    """Replace ``path`` with ``data``, all or nothing."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: Path | str, text: str) -> None:
    """Replace ``path`` with UTF-8 ``text``, all or nothing."""
    write_bytes(path, text.encode())


def write_json(path: Path | str, value: Any) -> None:
    """Replace ``path`` with indented JSON; NaN and infinity are refused because JSON has neither."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read JSON, or raise :class:`DataError` naming the file."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", remedy="run the stage that makes it (dvc repro)") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid JSON: {error}", remedy="delete it and run its stage again") from error


def write_tensors(path: Path | str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Replace ``path`` with a safetensors file; same tensors give the same bytes."""
    from safetensors.torch import save

    write_bytes(path, save({name: t.detach().cpu().contiguous() for name, t in sorted(tensors.items())}))


def read_tensors(path: Path | str) -> dict[str, torch.Tensor]:
    """Read a safetensors file onto the CPU, or raise :class:`DataError` naming it."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", remedy="run the stage that makes it (dvc repro)") from error
    except SafetensorError as error:
        raise DataError(f"{path} is not a readable safetensors file: {error}", remedy="restore or rebuild it") from error


def write_dir(path: Path | str, fill: Callable[[Path], None]) -> None:
    """Make folder ``path`` by calling ``fill`` on an empty partial folder, then rename it into place.

    An existing folder is replaced.  A kill between removing the old and renaming the new leaves no folder, which every
    reader treats as "not made yet".
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
    """An empty partial folder beside ``path``, for what is written bit by bit; :func:`publish_dir` gives it its name."""
    path = Path(path)
    for stale in path.parent.glob(f"{path.name}.*{PARTIAL}"):  # a folder has one writer at a time: its stage holds the lease
        shutil.rmtree(stale, ignore_errors=True)
    temp = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        temp.mkdir(parents=True)
    except OSError as error:
        raise _explain(error, path) from error
    return temp


def publish_dir(temp: Path, path: Path | str) -> None:
    """Rename a full partial folder into place, as :func:`write_dir` does; where that fails the partial folder is removed."""
    path = Path(path)
    try:
        for file in temp.rglob("*"):
            if file.is_file():
                fd = os.open(file, os.O_RDONLY)
                os.fsync(fd)
                os.close(fd)
            else:
                sync(file)
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
    """Remove what killed writers left directly in ``folder``; call it only while nobody else writes there."""
    for path in Path(folder).glob(f"*{PARTIAL}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


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
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(fd, 100, 0).decode(errors="replace").strip()
        os.close(fd)
        raise EnvironmentProblem(
            f"another process (pid {holder}) already works in {file.parent}", remedy="wait for it or stop it, then run again"
        ) from error
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def digest(path: Path | str) -> str:
    """SHA-256 of a file, or of a folder's names and contents; independent of dates, modes and the folder's own name."""
    path = Path(path)
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    if not path.is_dir():
        raise DataError(f"{path} does not exist", remedy="run the stage that makes it (dvc repro)")
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.name.endswith(PARTIAL)):
        total.update(f"{file.relative_to(path).as_posix()}\0{digest(file)}\n".encode())
    return total.hexdigest()
