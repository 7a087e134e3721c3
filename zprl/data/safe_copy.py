"""Copies recordings into the folder of demonstrations, whole or not at all.

What is not yet whole has a hidden name that ends in ``.partial``: no reader looks at it, and the
next copy sweeps it away.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from zprl import durable
from zprl.errors import ConfigError, DataError

PIECE_BYTES = 2**22
"""Bytes copied or compared at once."""


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file, or a folder without its hidden files, to ``target``, which must not exist.

    Raises:
        ConfigError: the target exists, or the source contains it.
        DataError: a link leads out of the source, or it holds something that is no file.
        EnvironmentProblem: no space, no permission.
    """
    if target.exists() or target.is_symlink():
        raise ConfigError(
            f"{target} exists and is never overwritten", remedy="choose another name with --name"
        )
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise ConfigError(
            f"{target} lies inside {source}",
            remedy="copy a folder that does not contain the project",
        )

    files = [(source, Path())] if source.is_file() else list(contents(source))
    with durable.explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent)
        temp = target.with_name(f".{target.name}.{os.getpid()}{durable.PARTIAL}")
        try:
            for file, inside in files:
                _copy(file, temp / inside if inside.parts else temp)
            _sync_folders(temp)
            durable.operation("rename", target)
            if target.exists():  # another process was faster
                raise ConfigError(
                    f"{target} exists and is never overwritten",
                    remedy="choose another name with --name",
                )
            temp.rename(target)
            durable.sync(target.parent)
        except BaseException:
            remove(temp)
            raise


def contents(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yield every file of a folder and its place in it, in a fixed order.

    Hidden files are left out, links within the folder are followed.

    Raises:
        DataError: see :func:`copy_whole`; or there is no file.
    """
    root = folder.resolve()
    empty = True
    for place, inner, files in os.walk(folder):
        # A link to a folder counts as a file, which is refused; `os.walk` does not follow it.
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        here = Path(place)
        for name in [*sorted(files), *(name for name in inner if (here / name).is_symlink())]:
            path = here / name
            if name.startswith("."):
                continue
            if not path.resolve().is_relative_to(root):
                raise DataError(
                    f"{path} is a link out of its folder",
                    remedy="if you trust it, copy the folder with `cp -rL` first",
                )
            if not path.is_file():
                raise DataError(
                    f"{path} is neither a file nor a folder",
                    remedy="copy the folder with `cp -rL` first, or remove it",
                )
            empty = False
            yield path, path.relative_to(folder)
    if empty:
        raise DataError(f"{folder} holds no files", remedy="name a recording, or a folder of them")


def same(source: Path, target: Path) -> bool:
    """Tell whether ``target`` is a copy of ``source``: names, sizes and bytes."""
    if source.is_file() or target.is_file():
        return source.is_file() and target.is_file() and _equal(source, target)
    if not (source.is_dir() and target.is_dir()):
        return False
    originals = {inside: path for path, inside in contents(source)}
    copies = {inside: path for path, inside in contents(target)}
    return originals.keys() == copies.keys() and all(
        _equal(path, copies[inside]) for inside, path in originals.items()
    )


def sweep(folder: Path) -> None:
    """Remove what broken copies left below a folder; only for the process that holds its lease."""
    for path in list(folder.rglob(f".*{durable.PARTIAL}")):
        remove(path)


def remove(path: Path) -> None:
    """Delete a partial file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync_folders(root: Path) -> None:
    """Flush all folders of a tree to the disk, inner ones first; nothing for a file."""
    if root.is_dir():
        for folder in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):
            durable.sync(folder)
        durable.sync(root)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    durable.operation("write", target)
    with open(source, "rb") as old, open(target, "xb") as new:
        shutil.copyfileobj(old, new, PIECE_BYTES)
    durable.sync(target)


def _equal(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with open(one, "rb") as first, open(other, "rb") as second:
        while piece := first.read(PIECE_BYTES):
            if piece != second.read(len(piece)):
                return False
    return True
