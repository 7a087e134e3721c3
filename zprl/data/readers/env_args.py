"""Content of robomimic's attribute ``env_args``: simulator, rate, controller.

It is foreign text and may be wrong.  Its eras: robomimic 0.1 has no ``env_version``; with robosuite
up to 1.4 ``controller_configs`` is one controller (a list of them for two robots) with
``control_delta``; since robosuite 1.5 it is a composite one, whose ``body_parts`` each have an
``input_type``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py

from zprl import durable
from zprl.data.readers.hdf5_guard import RefusedError, attribute
from zprl.errors import DataError

MAX_TEXT = 2**20
MAX_WORD = 100
"""Letters of a name that are repeated."""
MAX_CONTROLLERS = 100
MAX_DEPTH = 6
MAX_HZ = 10_000.0
MAX_BOUND = 1e6
ROBOSUITE = 1
"""robomimic's number of this kind of environment (``EnvType.ROBOSUITE_TYPE``)."""
POSE = "OSC_POSE"


@dataclass(frozen=True)
class EnvArgs:
    """Declarations of a recording, ``None`` where there is none.

    Attributes:
        name: Name of the environment.
        simulator: Name of the simulator.
        version: Version of the simulator.
        rate_hz: Control steps per second.
        controllers: Types of the arms' controllers.
        delta: True if their actions are changes of a pose; ``None`` also where controllers differ.
        bounds: Lowest and highest number of an action.
        sim_args: True if Isaac Lab's own arguments are there.
    """

    name: str | None = None
    simulator: str | None = None
    version: str | None = None
    rate_hz: float | None = None
    controllers: tuple[str, ...] = ()
    delta: bool | None = None
    bounds: tuple[float, float] | None = None
    sim_args: bool = False

    @property
    def of_poses(self) -> bool:
        """True if actions begin with one arm's pose or its change: position, rotation vector."""
        return self.controllers == (POSE,)

    def facts(self) -> dict[str, str]:
        """Return the declarations in words, for the data report."""
        facts = {
            "environment": self.name,
            "simulator": self.simulator,
            "simulator version": self.version,
        }
        if self.rate_hz is not None:
            facts["rate"] = f"{self.rate_hz:g} Hz"
        if self.controllers:
            kinds = {True: ", actions are deltas", False: ", actions are absolute", None: ""}
            facts["controller"] = f"{', '.join(self.controllers)}{kinds[self.delta]}"
        return {name: text for name, text in facts.items() if text}


def env_args(data: h5py.Group) -> EnvArgs:
    """Read the attributes of the group ``data``; what cannot be understood counts as missing."""
    args = _mapping(_json(data, "env_args"))
    kwargs = _mapping(args.get("env_kwargs"))
    sim = _mapping(args.get("sim_args"))  # Isaac Lab's RecorderManager.get_ep_meta
    version = (
        args.get("env_version") or _plain(data, "env_version") or _plain(data, "repository_version")
    )
    kind = args.get("type")
    robosuite = type(kind) is int and kind == ROBOSUITE
    controllers = list(_controllers(kwargs.get("controller_configs"))) if robosuite else []

    # One answer for all controllers, or none.
    deltas = {delta for _, delta, _ in controllers}
    bounds = {limit for *_, limit in controllers}
    return EnvArgs(
        name=_text(args.get("env_name")),
        simulator="robosuite" if robosuite else "Isaac Lab" if sim else None,
        version=_text(version),
        rate_hz=_rate(kwargs.get("control_freq")) or _rate_of_steps(sim),
        controllers=tuple(name for name, *_ in controllers),
        delta=deltas.pop() if len(deltas) == 1 else None,
        bounds=bounds.pop() if len(bounds) == 1 else None,
        sim_args=bool(sim),
    )


def _controllers(
    config: Any, depth: int = 0
) -> Iterator[tuple[str, bool | None, tuple[float, float] | None]]:
    """Yield type, delta and bounds of each controller of a pose."""
    if depth > MAX_DEPTH:
        return
    if isinstance(config, list):
        for part in config[:MAX_CONTROLLERS]:
            yield from _controllers(part, depth + 1)
        return

    fields = _mapping(config)
    name = fields.get("type")
    if isinstance(name, str) and name.startswith("OSC_"):
        input_type = {"delta": True, "absolute": False}.get(str(fields.get("input_type")))
        delta = fields.get("control_delta", input_type)
        bounds = (fields.get("input_min"), fields.get("input_max"))
        numbers = [
            float(b) for b in bounds if isinstance(b, int | float) and -MAX_BOUND <= b <= MAX_BOUND
        ]
        limits = None
        if delta is True and len(numbers) == len(bounds) and numbers[0] < numbers[1]:
            limits = (numbers[0], numbers[1])
        yield ascii(name)[1:-1][:MAX_WORD], delta if isinstance(delta, bool) else None, limits
        return

    # A composite controller holds the arms' ones, possibly in several levels.
    parts = _mapping(fields.get("body_parts")) or (fields if depth else {})
    for part in list(parts.values())[:MAX_CONTROLLERS]:
        if isinstance(part, dict):
            yield from _controllers(part, depth + 1)


def _json(node: h5py.Group, name: str) -> Any:
    text = _plain(node, name)
    if not isinstance(text, str):
        return None
    try:
        return durable.parse_json(text, name, limit=MAX_TEXT, allow_nan=True)
    except DataError:
        return None


def _plain(node: h5py.Group, name: str) -> str | int | float | bool | None:
    try:
        return attribute(node, name)
    except RefusedError:
        return None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    """Return a short, printable text, or ``None``."""
    return ascii(value)[1:-1][:MAX_WORD] if isinstance(value, str) and value else None


def _rate(value: Any) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 < value <= MAX_HZ else None


def _rate_of_steps(sim: dict[str, Any]) -> float | None:
    step, count = (
        v if isinstance(v, int | float) and 0 < v < MAX_BOUND else 0
        for v in (sim.get("dt"), sim.get("decimation"))
    )
    return _rate(round(1 / (step * count), 6)) if step * count > 1 / MAX_HZ else None
