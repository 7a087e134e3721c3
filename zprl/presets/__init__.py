"""Named sets of parameters.  A preset is written into ``params.yaml``: nothing stays hidden.

``paper`` is the published recipe, ``smoke`` every stage in tiny numbers.  ``method/...`` are ways
to learn in simulation, ``laptop/...`` and ``gpu/...`` base policies for such a machine, and a
benchmark's name stands before its tasks as the paper has them.  Beside the files of
this folder each task on a robot that has a recipe is a preset of its name: the recipe, the task,
and the observations that its policy wants of the demonstrations.

A file states differences.  ``extends: NAME`` names the preset that it differs from; a section that
states its ``algorithm`` differs from that algorithm's defaults, the published numbers.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from zprl import config, durable, strict_yaml
from zprl.errors import ConfigError
from zprl.robot.task import RealTask, built_in
from zprl.suggestions import did_you_mean

FOLDER = Path(__file__).parent
EXTENDS = "extends"
"""Key of a preset's file: the preset that it differs from."""
MAX_EDITED = 100_000
"""Longest file that is edited, in bytes: keeping comments takes ten times as long as reading."""
MAX_COLUMNS = 120
"""Width of an edited file, in which each part of ``finetune_sim`` has one line."""

Values = dict[str, Any]
"""Sections, or a section's values, by name."""


def _files() -> dict[str, Path]:
    return {
        path.relative_to(FOLDER).with_suffix("").as_posix(): path for path in FOLDER.rglob("*.yaml")
    }


def names() -> list[str]:
    """Return the names of the presets shipped with the package."""
    return sorted([*_files(), *(name for name in built_in() if RealTask.load(name).recipe)])


def read(name: str) -> Values:
    """Return the values of a preset by section.

    A section that states its algorithm is returned whole, except for its budget.

    Raises:
        ConfigError: no such preset; the nearest one is named.
    """
    if (file := _files().get(name)) is not None:
        return _of_file(file)
    if name not in names():
        hint = did_you_mean(name, names(), lead="; ")
        raise ConfigError(
            f"no preset is named '{name}'{hint}", remedy=f"presets: {', '.join(names())}"
        )
    return _of_task(RealTask.load(name))


def _of_file(file: Path) -> Values:
    stated = dict(strict_yaml.load(file))
    values: Values = {}
    if (base := stated.pop(EXTENDS, None)) is not None:
        values = read(base)
    for section, differences in stated.items():
        if "algorithm" in differences:
            method = config.section_of(differences).model_validate(differences)
            kept = {key: value for key, value in values.get(section, {}).items() if key == "budget"}
            values[section] = kept | method.model_dump(mode="json", exclude={"budget"})
    config.write_over(values, stated)
    return values


def _of_task(task: RealTask) -> Values:
    """Return the recipe of a task on a robot."""
    keys = [*task.observation, *(image.key for image in task.images.values())]
    values: Values = {"ingest": {"obs_keys": keys}, "finetune_real": {"task": task.name}}
    config.write_over(values, task.recipe)
    return values


def use(name: str, path: Path | str = config.PARAMS_FILE) -> list[tuple[str, Any, Any]]:
    """Write a preset's values into ``params.yaml``, keeping everything else, comments too.

    Returns:
        The changes: key, old value, new value.

    Raises:
        ConfigError: unknown preset, or the file is not valid, before or after; it is then
            untouched.
    """
    from ruamel.yaml import YAML

    path = Path(path)
    ruamel = YAML()  # the round-trip loader constructs plain values only
    ruamel.width = MAX_COLUMNS
    ruamel.preserve_quotes = True
    ruamel.representer.add_representer(
        type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null")
    )

    # The strict reader refuses what would keep the other library busy.
    config.load(path, limit=MAX_EDITED)
    document = ruamel.load(path.read_text(encoding="utf-8"))
    if not isinstance(document, MutableMapping):
        raise ConfigError(
            f"{path} has no sections", remedy="restore it (`git checkout params.yaml`)"
        )

    before = dict(_leaves(document))
    config.write_over(document, _in_one_line(read(name)))
    text = io.StringIO()
    ruamel.dump(document, text)
    config.parse(strict_yaml.parse(text.getvalue(), str(path)), source=f"preset '{name}' in {path}")
    durable.write_text(path, text.getvalue())
    after = dict(_leaves(document))
    return [
        (key, before.get(key), after.get(key))
        for key in (before | after)
        if key not in before or key not in after or before[key] != after[key]
    ]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all values below a mapping by their dotted keys."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _in_one_line(value: Any) -> Any:
    """Return a value for the round-trip writer: lists and innermost mappings in one line."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if isinstance(value, list):
        value = CommentedSeq(value)
        value.fa.set_flow_style()
    elif isinstance(value, Mapping):
        value = CommentedMap({key: _in_one_line(below) for key, below in value.items()})
        if not any(isinstance(below, Mapping) for below in value.values()):
            value.fa.set_flow_style()
    return value


def explain(section: str | None = None) -> Iterator[tuple[str, str, str, str]]:
    """Yield rows ``key, type, default, description`` of every parameter.

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
        # The rival states differences; its keys are those of finetune_sim.
        if text := sections[name].description:
            yield name, "differences", str(config.ACTION_RESIDUAL), text
            continue

        yield from _rows(getattr(defaults, name), f"{name}.")
        if name == "finetune_sim":
            for key, kind, default, text in _rows(config.PolicyGradient(algorithm="ppo"), ""):
                if not key.startswith(("algorithm", "budget.")):
                    yield f"{name}.{key}", kind, default, f"With algorithm ppo: {text}"


def _rows(model: BaseModel, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield the rows of a section, and of those below it that have no text of their own."""
    for key, field in type(model).model_fields.items():
        value, kind = getattr(model, key), field.annotation
        if isinstance(value, BaseModel) and not field.description:
            yield from _rows(value, f"{prefix}{key}.")
            continue

        short = (
            str(kind).replace("typing.", "") if "[" in str(kind) else getattr(kind, "__name__", "")
        )
        yield f"{prefix}{key}", short, str(value), field.description or ""
