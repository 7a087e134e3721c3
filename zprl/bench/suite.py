"""Suites: tasks x methods x seeds, written down as a YAML file.

::

    title: ...
    tasks:                        # registered task: preset of its base policy, budget and judging
      metaworld/box-close-v3: {preset: laptop/metaworld, demos: 100}
    methods: [zprl, dsrl, ...]    # of methods.yaml, or own: {name: {preset: ..., params: {...}}}
    seeds: [0, 1, 2]
    params: {evaluate: {episodes: 8}}       # written over everything else

Each (task, seed) has one base cell: demonstrations, frozen policy, its evaluation.  Each (task,
method, seed) is a cell on top of it. A method that changes what the base is made of (sections
before ``finetune_sim``) has a base of its own.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from zprl import config, plugins, presets, strict_yaml
from zprl import safe_names as plain_names
from zprl.errors import ConfigError
from zprl.strict_model import StrictModel

FOLDER = Path(__file__).parent
SUITES = FOLDER / "suites"
BASE = "base"
KEY_LENGTH = 16
OF_THE_BASE = ("run", "task", "ingest", "policy", "vib", "images", "pretrain", "evaluate")
OF_THE_METHOD = ("finetune_sim",)
"""Sections that decide the base policy with its verdict, and a method on top of it; the others have
no say here."""


class TaskEntry(StrictModel):
    """One task of a suite."""

    preset: str = Field(description="Preset of base policy, budget and judging.")
    demos: int | Path = Field(
        100,
        description="Episodes to record with the task's scripted operator, "
        "or a file of demonstrations.",
    )


class Method(StrictModel):
    """One way to improve the base policy."""

    label: str = Field(description="Name for people.")
    preset: str = Field(description="Preset of the method.")
    params: dict[str, dict[str, Any]] = Field({}, description="Numbers written over the preset's.")
    space: Literal["latent", "action", "noise", "embedding", "weights", "none"] = Field(
        description="Where it acts."
    )
    source: str = Field(description="Where it was published.")
    tuning: str = Field(description="What was tried to make it good, and on what.")


class Suite(StrictModel):
    """Tasks x methods x seeds."""

    title: str
    tasks: dict[str, TaskEntry] = Field(min_length=1)
    methods: list[str | dict[str, Method]] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    params: dict[str, dict[str, Any]] = Field({}, description="Numbers written over all others.")

    def chosen(self) -> dict[str, Method]:
        """Return methods by name, in the suite's order.

        Raises:
            ConfigError: a name that ``methods.yaml`` does not have.
        """
        known = methods()
        chosen: dict[str, Method] = {}
        for entry in self.methods:
            if isinstance(entry, str) and entry not in known:
                raise ConfigError(
                    f"no method is named '{entry}'", remedy=f"methods: {', '.join(known)}"
                )
            chosen |= {entry: known[entry]} if isinstance(entry, str) else entry
        return chosen


@dataclass(frozen=True)
class Cell:
    """One run of a suite.

    Attributes:
        task: Registered task.
        method: Name of the method; :data:`BASE` where the base policy itself is made.
        seed: Training seed.
        folder: Where its ``params.yaml`` stands and its stages run.
        params: All of its ``params.yaml``.
        demos: Of a base: what it is trained on.
        base: Of a method: the cell whose policy it improves.
    """

    task: str
    method: str
    seed: int
    folder: Path
    params: dict[str, Any]
    demos: int | Path = 0
    base: Cell | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Return task, method and seed, for people."""
        return f"{self.task} · {self.folder.name} · seed {self.seed}"

    @functools.cached_property
    def key(self) -> str:
        """Return the digest of everything that decides the result, the code apart.

        Numbers that are defaults stay out of it: a parameter that a later version adds must not
        undo days of runs.
        """
        sections = OF_THE_BASE if self.base is None else OF_THE_BASE + OF_THE_METHOD
        stated = config.parse(self.params).model_dump(
            mode="json", exclude_defaults=True, include=set(sections)
        )
        facts = [stated, str(self.demos), self.base.key if self.base else None]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return digest[:KEY_LENGTH]


def methods() -> dict[str, Method]:
    """Return the methods shipped with the package, from ``methods.yaml``."""
    return {
        name: Method(**entry) for name, entry in strict_yaml.load(FOLDER / "methods.yaml").items()
    }


def names() -> list[str]:
    """Return the names of the suites shipped with the package."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def load(name: str) -> Suite:
    """Read a suite: one of :func:`names`, or a path.

    Raises:
        ConfigError: there is none, or it is not one.
    """
    path = SUITES / f"{name}.yaml" if name in names() else Path(name)
    if not path.is_file():
        raise ConfigError(
            f"no suite is named '{name}'", remedy=f"suites: {', '.join(names())}, or a path"
        )

    try:
        suite = Suite.model_validate(strict_yaml.load(path, aliases=True))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part)[:60] for part in first["loc"]) or "the whole"
        raise ConfigError(
            f"{path} is not a suite: {where}: {first['msg']}",
            remedy="see the ones that ship with the package",
        ) from error
    suite.chosen()
    return suite


def cells(suite: Suite, folder: Path) -> list[Cell]:
    """Return all cells below ``folder``, every base before the methods on top of it.

    Raises:
        ConfigError: a preset or number that does not fit, or a name that cannot be a folder's.
    """
    if taken := [name for name in suite.chosen() if name == BASE or name.startswith(f"{BASE}-")]:
        raise ConfigError(
            f"a method is named '{taken[0]}', as the folders of base policies are",
            remedy="rename it",
        )

    every: list[Cell] = []
    for task in suite.tasks:
        plugins.load("tasks", task)  # fail now and not after the first hour
        for seed in suite.seeds:
            every += _cells(suite, task, seed, folder)
    return every


def _cells(suite: Suite, task: str, seed: int, folder: Path) -> list[Cell]:
    """Return the cells of one task and seed."""
    entry = suite.tasks[task]
    here = plain_names.inside(folder, task.replace("/", "-"), f"seed-{seed}")
    common = [
        presets.read(entry.preset),
        {"task": {"name": task}, "run": {"seed": seed}},
        suite.params,
    ]
    cells: list[Cell] = []
    bases: dict[str, Cell] = {}
    for name, method in suite.chosen().items():
        # Sections of the method that change what its base is made of give it a base of its own.
        own = {
            section: values
            for section, values in method.params.items()
            if section not in OF_THE_METHOD
        }
        base_folder = plain_names.inside(here, f"{BASE}-{name}" if own else BASE)
        base = Cell(task, BASE, seed, base_folder, _params(*common, own), entry.demos)
        if base.key not in bases:
            bases[base.key] = base
            cells.append(base)

        params = _params(*common, presets.read(method.preset), suite.params, own, method.params)
        place = plain_names.inside(here, name)
        cells.append(Cell(task, name, seed, place, params, base=bases[base.key]))
    return cells


def _params(*layers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the defaults with layers written over them, checked, as plain values."""
    document = config.Params().model_dump(mode="json")
    for layer in layers:
        for section, values in layer.items():
            known = _of_the_algorithm(document.get(section, {}) | values, values)
            config.write_over(document, {section: known})
    return config.parse(document, source="the suite").model_dump(mode="json")


def _of_the_algorithm(section: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values without those only other algorithms know: a suite's are for all methods."""
    if "algorithm" not in section:
        return dict(values)
    foreign = {key for model in config.ALGORITHMS.values() for key in model.model_fields}
    foreign -= config.section_of(section).model_fields.keys()
    return {key: value for key, value in values.items() if key not in foreign}
