"""Named sets of parameters.  A preset is written into ``params.yaml``: nothing stays hidden at run time.

``method/...`` are ways to learn in simulation, ``laptop/...`` base policies that a CPU trains in a
minute, and a benchmark's name stands before its tasks as the paper has them.  Beside the files of
this folder each task on a robot that has a recipe is a preset of its name: the recipe, the task,
and the observations that its policy wants of the demonstrations.
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from zprl import config, durable, strict_yaml
from zprl.errors import ConfigError
from zprl.robot.task import RealTask, built_in

FOLDER = Path(__file__).parent
MAX_EDITED = 100_000
"""Longest file that is edited, in bytes: keeping comments takes ten times as long as reading."""


def _files() -> dict[str, Path]:
    return {
        path.relative_to(FOLDER).with_suffix("").as_posix(): path for path in FOLDER.rglob("*.yaml")
    }


def names() -> list[str]:
    """Presets shipped with the package."""
    return sorted([*_files(), *(name for name in built_in() if RealTask.load(name).recipe)])


def read(name: str) -> dict[str, Any]:
    """Values of a preset by section.

    Raises:
        ConfigError: no such preset; the nearest one is named.
    """
    if (file := _files().get(name)) is not None:
        return dict(strict_yaml.load(file))
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ConfigError(
            f"no preset is named '{name}'{hint}", remedy=f"presets: {', '.join(names())}"
        )
    return _of_task(RealTask.load(name))


def _of_task(task: RealTask) -> dict[str, Any]:
    """The recipe of a task on a robot."""
    keys = [*task.observation, *(image.key for image in task.images.values())]
    values = {"ingest": {"obs_keys": keys}} | task.recipe
    return values | {"finetune_real": {"task": task.name} | task.recipe.get("finetune_real", {})}


def switch(target: MutableMapping[str, Any], values: Mapping[str, Any]) -> None:
    """Where ``values`` state another algorithm than the section ``target``, drop what belongs to the old one; the budget stays."""
    old = target.get("algorithm", "sac")
    if values.get("algorithm", old) != old:
        for key in [key for key in target if key not in config.Budget.model_fields]:
            del target[key]


def _merge(
    target: MutableMapping[str, Any], values: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            if not isinstance(target.setdefault(key, {}), MutableMapping):
                raise ConfigError(
                    f"{prefix}{key} is no section", remedy="write its keys below it, indented"
                )
            switch(target[key], value)
            yield from _merge(target[key], value, f"{prefix}{key}.")
            continue
        old = target.get(key)
        if key in target and old == value and isinstance(old, bool) == isinstance(value, bool):
            continue
        yield f"{prefix}{key}", old, value
        if isinstance(value, list):
            from ruamel.yaml.comments import CommentedSeq

            value = CommentedSeq(value)
            value.fa.set_flow_style()
        target[key] = value


def use(name: str, path: Path | str = config.PARAMS_FILE) -> list[tuple[str, Any, Any]]:
    """Write a preset's values into ``params.yaml``, keeping everything else, comments too.

    Returns:
        The changes: key, old value, new value.

    Raises:
        ConfigError: unknown preset, or the result would not be valid; the file is then untouched.
    """
    from ruamel.yaml import YAML

    path = Path(path)
    ruamel = YAML()  # the round-trip loader constructs plain values only
    ruamel.width = 200
    ruamel.preserve_quotes = True
    ruamel.representer.add_representer(
        type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    try:
        before = strict_yaml.load(
            path, limit=MAX_EDITED
        )  # refuses what would keep the other library busy
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} does not exist", remedy="run in the project's root folder"
        ) from error
    if not isinstance(before, Mapping):
        raise ConfigError(
            f"{path} has no sections", remedy="restore it (`git checkout params.yaml`)"
        )
    document = ruamel.load(path.read_text(encoding="utf-8"))
    changes = list(_merge(document, read(name)))
    text = io.StringIO()
    ruamel.dump(document, text)
    config.parse(strict_yaml.parse(text.getvalue(), str(path)), source=f"preset '{name}' in {path}")
    durable.write_text(path, text.getvalue())
    return changes


def explain(section: str | None = None) -> Iterator[tuple[str, str, str, str]]:
    """Rows ``key, type, default, description`` of every parameter.

    Raises:
        ConfigError: no such section.
    """
    sections = config.Params.model_fields
    if section is not None and section not in sections:
        raise ConfigError(
            f"no section is named '{section}'", remedy=f"sections: {', '.join(sections)}"
        )
    defaults = config.Params()
    for name in sections if section is None else (section,):
        model = getattr(defaults, name)
        for key, field in type(model).model_fields.items():
            kind = (
                str(field.annotation).replace("typing.", "")
                if "[" in str(field.annotation)
                else getattr(field.annotation, "__name__", "")
            )
            yield f"{name}.{key}", kind, str(getattr(model, key)), field.description or ""
