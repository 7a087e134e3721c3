"""``zprl doctor``: find out what this machine has, what is missing and how to get it.

Nothing is changed, nothing leaves the machine.
"""

from __future__ import annotations

import configparser
import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from zprl import child_processes

MIN_DISK_GB = 5.0
CAPS = {
    "fastapi": ((0, 151), "Prefect 3.8 cannot start a flow with fastapi 0.151 and later"),
    "sqlalchemy": ((2, 1), "with sqlalchemy 2.1 Prefect's schedules silently never fire"),
}
PINNED = ("torch", "lightning", "mlflow", "prefect", "dvc")


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    name: str
    state: Literal["ok", "warning", "missing"]
    text: str
    remedy: str | None = None

    def as_dict(self) -> dict[str, str | None]:
        """Return a JSON value, for ``--json``."""
        return asdict(self)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def check_python() -> Iterator[Check]:
    """Check the interpreter's version."""
    text = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        yield Check("python", "ok", text)
    else:
        yield Check(
            "python",
            "missing",
            f"{text} is not supported",
            "use Python 3.12: `make setup` finds it or fetches it",
        )


def check_packages() -> Iterator[Check]:
    """Check the pinned packages, and the two caps that break silently."""
    for name in PINNED:
        if installed := _version(name):
            yield Check(name, "ok", installed)
        else:
            yield Check(name, "missing", "not installed", "run `make setup`")

    for name, (limit, reason) in CAPS.items():
        installed = _version(name)
        if installed is None:
            continue
        if _numbers(installed) < limit:
            yield Check(name, "ok", installed)
        else:
            remedy = f"install {name}<{'.'.join(map(str, limit))}, or run `make setup`"
            yield Check(name, "missing", f"{installed}: {reason}", remedy)


def check_device() -> Iterator[Check]:
    """Check torch, and the GPU if ``params.yaml`` asks for one."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check(
            "torch import", "missing", f"torch cannot be imported: {error}", "run `make setup`"
        )
        return

    wanted = _params_value("run", "device", "cpu")
    if torch.cuda.is_available():
        yield Check("device", "ok", f"{wanted} (GPU here: {torch.cuda.get_device_name(0)})")
    elif wanted == "cuda":
        yield Check(
            "device",
            "missing",
            "params.yaml asks for cuda, torch sees no GPU",
            "set run.device to cpu, or check the driver",
        )
    else:
        yield Check("device", "ok", "cpu (no GPU seen, none needed)")


def check_world() -> Iterator[Check]:
    """Check the simulator that the task needs."""
    task = _params_value("task", "name", "isaac/lift-cube")
    isaaclab = _version("isaaclab")
    ovphysx = _version("ovphysx")

    if isaaclab and ovphysx:
        yield Check("isaac", "ok", f"isaaclab {isaaclab}, ovphysx {ovphysx} (kit-less)")
        if _params_value("task", "physics", "ovphysx") == "isaacsim":
            yield _isaac_sim()
        if _params_value("task", "assets", "authored") == "nvidia":
            yield _assets(Path(os.environ.get("ISAACSIM_ASSET_ROOT", "")))
    elif task.startswith(("isaac/", "isaaclab/")):
        yield Check(
            "isaac",
            "missing",
            f"the task {task} needs the extra 'isaac'",
            "run `make setup` (Linux, Python 3.12)",
        )
    else:
        yield Check(
            "isaac",
            "warning",
            "the extra 'isaac' is not installed",
            "run `make setup` if you want Isaac's worlds",
        )


def _isaac_sim() -> Check:
    if image := os.environ.get("ZPRL_CONTAINER"):
        return Check("isaacsim", "ok", f"stages with a world run in the image {image}")
    if importlib.util.find_spec("isaacsim") is not None:
        return Check("isaacsim", "ok", "installed here")
    return Check(
        "isaacsim",
        "missing",
        "task.physics is isaacsim",
        "name its image in ZPRL_CONTAINER (docs/isaac-sim.md), or take ovphysx",
    )


def _assets(root: Path) -> Check:
    from zprl.envs.isaac.usd import compare, panda
    from zprl.errors import EnvironmentProblem

    try:
        compare.check_robot(root / panda.PATH)
    except EnvironmentProblem as error:
        return Check("assets", "missing", error.message, error.remedy)
    return Check("assets", "ok", f"NVIDIA's, below {root}")


def check_disk(folder: Path = Path()) -> Iterator[Check]:
    """Check the free space where runs and artifacts go."""
    free = shutil.disk_usage(folder).free / 1e9
    if free >= MIN_DISK_GB:
        yield Check("disk", "ok", f"{free:.0f} GB free")
    else:
        yield Check(
            "disk", "missing", f"only {free:.1f} GB free", f"free at least {MIN_DISK_GB:.0f} GB"
        )


def check_project(folder: Path = Path()) -> Iterator[Check]:
    """Check parameters, graph, demonstrations and DVC's remote."""
    from zprl import config
    from zprl.errors import ConfigError

    try:
        config.load(folder / config.PARAMS_FILE)
        yield Check("params.yaml", "ok", "valid")
    except ConfigError as error:
        yield Check("params.yaml", "missing", error.message, error.remedy)

    if not (folder / ".dvc").is_dir() or not (folder / "dvc.yaml").exists():
        yield Check(
            "dvc project",
            "missing",
            "no dvc.yaml and .dvc here",
            "run in the project's root folder",
        )
        return

    yield _dvc_remote(folder)
    if any((folder / "data").rglob("*.hdf5")):
        yield Check("demos", "ok", "data/ is there")
    elif (folder / "data.dvc").exists():
        dvc = Path(sys.executable).with_name("dvc")  # it need not be on the path
        remedy = f"run `{shlex.quote(str(dvc))} pull data.dvc`, or `make run`"
        yield Check("demos", "missing", "data/ has not been fetched", remedy)
    else:
        yield Check(
            "demos",
            "missing",
            "no demonstrations",
            "record some (`zprl demos record`), then `dvc add data`",
        )


def _dvc_remote(folder: Path) -> Check:
    parser = configparser.ConfigParser()
    parser.read([folder / ".dvc/config", folder / ".dvc/config.local"])
    remote = parser.get("core", "remote", fallback=None)
    if remote is None:
        remedy = "`dvc remote add -d NAME URL`; see infra/README.md"
        return Check("dvc remote", "warning", "no default remote", remedy)
    url = parser.get(f"'remote \"{remote}\"'", "url", fallback="?")
    return Check("dvc remote", "ok", f"{remote} ({url})")


def check_safety(folder: Path = Path()) -> Iterator[Check]:
    """Check for code that other users, or files of the working folder, could have us run."""
    if _version("dvc"):
        yield _dvc_cache(folder)
    parts = os.environ.get("PYTHONPATH", "")
    if parts and not all(map(os.path.isabs, parts.split(os.pathsep))):
        text = (
            "an empty or relative part means the working folder, and its files are run as modules"
        )
        yield Check("PYTHONPATH", "warning", text, "name whole paths, without `:` at an end")


_SITE_CACHE = """
import sys
from dvc.config import Config
from dvc.dirs import site_cache_dir
print(site_cache_dir(Config(dvc_dir=sys.argv[1])["core"].get("site_cache_dir")))
"""


def _dvc_cache(folder: Path) -> Check:
    """Check where ``dvc`` keeps its caches if one types it here.

    Below that folder, DVC opens its own to everybody.
    """
    # In a child, because no library module knows DVC; in this process's environment, as a person
    # who types has it.
    command = child_processes.python("-c", _SITE_CACHE, str(folder / ".dvc"))
    env = {**os.environ, **child_processes.SAFE_PATH}
    asked = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if asked.returncode:
        problem = asked.stderr.strip().rpartition("\n")[2]
        return Check(
            "dvc cache", "warning", f"DVC cannot be configured: {problem}", "correct .dvc/config"
        )

    cache = folder / asked.stdout.strip()
    with contextlib.suppress(FileNotFoundError):  # then its first user will own it
        facts = cache.stat()
        if facts.st_uid == os.geteuid() and not facts.st_mode & 0o077:
            return Check("dvc cache", "ok", f"{cache}, for you alone")
    own = "~/.cache/zprl/dvc"
    text = (
        f"`dvc` that you type keeps pickles in {cache}, which other users may change: "
        "they run code as you"
    )
    remedy = (
        f"`install -d -m 700 {own} && dvc config --global core.site_cache_dir {own}`, "
        f"and unset {child_processes.DVC_CACHE}"
    )
    return Check("dvc cache", "warning", text, remedy)


def _answers(url: str) -> bool:
    try:
        # The callers ask http(s) only.
        with urllib.request.urlopen(url, timeout=3) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


def check_services() -> Iterator[Check]:
    """Check MLflow and Prefect, where the environment says they are."""
    yield _mlflow_store(os.environ.get("MLFLOW_TRACKING_URI", ""))

    api = os.environ.get("PREFECT_API_URL", "")
    if not api:
        yield Check("prefect", "ok", "embedded server, started when needed")
    elif _answers(f"{api.rstrip('/')}/health"):
        yield Check("prefect", "ok", api)
    else:
        remedy = "start it (`zprl ui`), or unset PREFECT_API_URL"
        yield Check("prefect", "missing", f"{api} does not answer", remedy)


def _mlflow_store(uri: str) -> Check:
    name = "mlflow store"
    shown = uri.split("@")[-1]  # without a login
    if not uri:
        return Check(name, "ok", "sqlite:///mlflow.db (local file)")

    if not uri.startswith(("http://", "https://")):
        if uri.startswith("file:") or "://" not in uri:
            remedy = "MLflow no longer takes folders; use sqlite:///mlflow.db or a server"
            return Check(name, "missing", uri, remedy)
        return Check(name, "ok", shown)

    if _answers(f"{uri.rstrip('/')}/health"):
        return Check(name, "ok", shown)
    # Training goes on without its tracker, so this is no error.
    return Check(
        name, "warning", f"{shown} does not answer", "start it, or unset MLFLOW_TRACKING_URI"
    )


def _params_value(section: str, key: str, default: str) -> str:
    from zprl import config
    from zprl.errors import ConfigError

    try:
        return str(getattr(getattr(config.load(), section), key))
    except ConfigError:
        return default


CHECKS: tuple[Callable[[], Iterator[Check]], ...] = (
    check_python,
    check_packages,
    check_device,
    check_world,
    check_disk,
    check_project,
    check_services,
    check_safety,
)


def examine() -> list[Check]:
    """Run all checks in order."""
    return [check for run in CHECKS for check in run()]
