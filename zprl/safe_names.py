"""Names from files and command lines that become files or folders.

Only plain ones do, and never outside the folder that they are meant for.
"""

from __future__ import annotations

import re
from pathlib import Path

from zprl.errors import ConfigError

PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""Of a plain name, for models: letters, digits, ``_``, ``.`` and ``-``, the first a letter or
digit."""
MAX_NAME = 100
_PLAIN = re.compile(PATTERN.removesuffix("$"))
_STRANGE = re.compile(r"[^A-Za-z0-9_.-]")


def plain(name: str) -> bool:
    """Return whether a name may become a file or folder."""
    return len(name) <= MAX_NAME and _PLAIN.fullmatch(name) is not None


def inside(folder: Path, *names: str) -> Path:
    """Return the path of ``names`` below ``folder``.

    Raises:
        ConfigError: a name is not plain, or a link leads out of the folder.
    """
    for name in names:
        if not plain(name):
            raise ConfigError(
                f"{name[:MAX_NAME]!a} cannot be the name of a file or folder",
                remedy="use letters, digits, '_', '.' and '-', beginning with a letter or digit",
            )
    path = folder.joinpath(*names)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"{path} lies outside {folder}",
            remedy="choose another name, or put the thing itself where the link is",
        )
    return path


def made_plain(text: str) -> str:
    """Return a plain name like a text: for files that are named after what is in others.

    >>> made_plain("starter/demo 3")
    'starter.demo_3'
    """
    return _STRANGE.sub("_", text.replace("/", ".")).lstrip("_.-")[:MAX_NAME] or "unnamed"
