"""Start of Isaac Lab in this process, without Kit if the configuration can.

The asset root is read when ``isaaclab.utils.assets`` is imported, Warp's cache folder when Warp
starts, and Hydra reads whatever stands in ``sys.argv``; so every use of Isaac Lab begins here.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from zprl.envs.isaac import assets
from zprl.envs.usage_errors import closed_error
from zprl.errors import EnvironmentProblem, ZprlError

if TYPE_CHECKING:
    from zprl.config import Assets

CACHE_VARIABLE = "ZPRL_CACHE"
"""Environment variable with the folder for authored assets and compiled kernels; default: ``zprl``
in the user's folder of caches.

Never the working folder: a kernel that lies there would be run."""
_ROOT_VARIABLE = "ISAACSIM_ASSET_ROOT"
_INSTALL = "install the extra: pip install 'zprl[isaac]' (Python 3.12, Linux)"
_SHOWN = 4000
"""Characters of the start's output that a failure shows."""
_NO_COLLIDER_CACHE = {"/physics/cooking/ujitsoCollisionCooking": False, "/UJITSO/enabled": False}
_UNPINNED = "zprl_unpinned"
"""Attribute of allocators that were changed."""
_ALLOCATORS = ("zeros", "empty", "full", "ones", "zeros_like", "empty_like", "clone")


def _cache() -> Path:
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "zprl"


def authored() -> Path:
    """Return the folder with the authored assets, made if this code has not done so yet."""
    return assets.ensure(_cache() / "isaac-assets")


def prepare(kind: Assets = "authored") -> Path:
    """Point Isaac Lab and Warp at assets and caches, and mend what they do badly here.

    Args:
        kind: ``authored`` assets, which are written if need be, or the user's copy of ``nvidia``'s.

    Returns:
        The asset root.

    Raises:
        EnvironmentProblem: Isaac Lab is not installed, it was imported before with other assets, or
            no folder with NVIDIA's is named.
    """
    os.environ.setdefault("WARP_CACHE_PATH", str(_cache() / "warp"))
    imported = getattr(sys.modules.get("isaaclab.utils.assets"), "NUCLEUS_ASSET_ROOT_DIR", None)
    fixed = None if imported is None else Path(imported)
    try:
        root = _asset_root(kind, fixed)
        if fixed is not None and fixed != root:
            raise EnvironmentProblem(
                f"Isaac Lab was imported with other assets ({imported})",
                remedy="make the environment before any import of isaaclab",
            )
        os.environ[_ROOT_VARIABLE] = str(root)

        allow_unpinned_memory()
        if kind == "authored":  # NVIDIA's meshes take long to cook, and keep the cache
            cook_without_cache()
    except ModuleNotFoundError as error:
        raise EnvironmentProblem(
            f"the Isaac task needs the module '{error.name}'", remedy=_INSTALL
        ) from error
    return root


def _asset_root(kind: Assets, fixed: Path | None) -> Path:
    """Return the wanted asset root; ``fixed`` is the one that Isaac Lab was imported with."""
    if kind == "nvidia":
        root = Path(os.environ.get(_ROOT_VARIABLE, ""))
        # An earlier world of this process may have set our own.
        if root == Path() or root.name == assets.name():
            raise EnvironmentProblem(
                f"task.assets is nvidia, and {_ROOT_VARIABLE} names no folder of theirs",
                remedy="set it to the folder that holds `Isaac/`, or task.assets to authored",
            )
        return root

    if fixed is not None and fixed.name == assets.name():
        # Author it again where it was removed, for instance with a temporary folder.
        return assets.ensure(fixed.parent)
    return authored()


def allow_unpinned_memory() -> bool:
    """Let Warp answer requests for pinned host memory with ordinary memory without a CUDA driver.

    ``isaaclab_ov`` 3.0.0 asks for pinned staging buffers even when it simulates on the CPU, and
    Warp can pin only with CUDA ("Failed to allocate 4 bytes on device 'cpu'").  With a CUDA driver
    nothing is touched.  A test shows when Isaac Lab stops asking.

    Returns:
        True where Warp was changed, now or before.
    """
    import warp

    if warp.is_cuda_available():
        return False

    def unpinned(real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def allocate(*args: Any, **kwargs: Any) -> Any:
            if kwargs.get("pinned"):
                kwargs["pinned"] = False
            return real(*args, **kwargs)

        setattr(allocate, _UNPINNED, True)
        return allocate

    for name in _ALLOCATORS:
        if not hasattr(getattr(warp, name), _UNPINNED):
            setattr(warp, name, unpinned(getattr(warp, name)))
    return True


def cook_without_cache() -> None:
    """Have OvPhysX make collision shapes without keeping them on disk.

    The shapes here take no time.  The agent of that cache (UJITSO) is a thread that asks for work
    more than ten thousand times a second as long as the process lives, a fifth of a core (ovphysx
    0.6.4).  The settings are process-wide, and the first world decides.
    """
    if importlib.util.find_spec("ovphysx") is None:  # Newton and Kit do without
        return

    import ovphysx

    package: Any = ovphysx  # what is replaced is a type
    real = package.config.PhysXConfig
    if package.PhysXConfig is not real:
        return

    @functools.wraps(real)
    def configure(
        *args: Any, carbonite_overrides: dict[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        overrides = {**(carbonite_overrides or {}), **_NO_COLLIDER_CACHE}
        return real(*args, carbonite_overrides=overrides, **kwargs)

    package.PhysXConfig = configure


@contextlib.contextmanager
def bare_argv() -> Iterator[None]:
    """Hide the command line: Isaac Lab hands what is left of ``sys.argv`` to Hydra."""
    saved = sys.argv
    sys.argv = saved[:1]
    try:
        yield
    finally:
        sys.argv = saved


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the output of Isaac Lab, Warp and native libraries; on a failure, show its end.

    The file descriptors go to a temporary file because half of the chatter is written by C++;
    Python's own streams go there too, because they need not be those descriptors (in a notebook,
    under a test runner).
    """
    logging.getLogger("isaaclab").setLevel(logging.ERROR)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    failed = True

    with tempfile.TemporaryFile("w+", errors="replace") as sink:
        try:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
            with (
                contextlib.redirect_stdout(sink),
                contextlib.redirect_stderr(sink),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")
                yield
            failed = False
        except ZprlError:  # it says all there is to say
            failed = False
            raise
        finally:
            sink.flush()
            for target, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, target)
                os.close(copy)
            if failed:
                sink.seek(0)
                sys.stderr.write(sink.read()[-_SHOWN:])


@contextlib.contextmanager
def own_signals() -> Iterator[None]:
    """Keep the handlers of Ctrl-C and SIGTERM, in whose place Kit puts its own.

    A stage must still stop at its next resume point.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    saved = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in saved.items():
            if handler is not None:  # one that was not set from Python
                signal.signal(number, handler)


def needs_kit(config: Any) -> bool:
    """Return whether Isaac Lab will start Kit for this configuration.

    Raises:
        EnvironmentProblem: it will, and Isaac Sim is not installed.
    """
    from isaaclab.app.sim_launcher import validate_launch

    _, reasons = validate_launch(config, {"visualizer": None})
    if reasons and importlib.util.find_spec("isaacsim") is None:
        raise EnvironmentProblem(
            "task.physics is isaacsim, and Isaac Sim is not installed here",
            remedy="run the stage in its image (docs/isaac-sim.md), or set task.physics to "
            "ovphysx or newton, which need no Kit",
        )
    return bool(reasons)


class Simulator:
    """The one Isaac Lab environment of this process; the next one starts afresh.

    Kit alone stays: closing it would end the process.
    """

    _open: ClassVar[bool] = False
    _kit: ClassVar[list[AbstractContextManager[Any]]] = []

    def __init__(self) -> None:
        self._env: Any = None
        self._stack = contextlib.ExitStack()

    def start(self, build: Callable[[], Any], device: str, kind: Assets = "authored") -> Any:
        """Launch the simulator and make its manager-based environment, both without chatter.

        Args:
            build: Returns the environment's configuration; called once Isaac Lab can be imported.
            device: Torch device of the simulator.
            kind: Assets, as :func:`prepare` takes them.

        Raises:
            EnvironmentProblem: one is open already, Isaac Lab is not installed, an asset is
                missing, or the engine does not start.
        """
        if Simulator._open:
            raise EnvironmentProblem(
                "an Isaac environment is open in this process already", remedy="close it first"
            )

        try:
            with quiet(), bare_argv(), explained():
                prepare(kind)
                from isaaclab.app import launch_simulation
                from isaaclab.envs import ManagerBasedRLEnv

                config = build()
                launching = launch_simulation(config, {"visualizer": None, "device": device})
                if needs_kit(config):
                    with own_signals():
                        launching.__enter__()
                    Simulator._kit.append(launching)
                else:
                    self._stack.enter_context(launching)
                self._env = ManagerBasedRLEnv(cfg=config)
        except BaseException:  # also on Ctrl-C: the launcher holds process-wide state
            self._stack.close()
            raise

        Simulator._open = True
        return self._env

    @property
    def env(self) -> Any:
        """Isaac Lab's environment.

        Raises:
            EnvironmentProblem: it is closed, or was not started.
        """
        if self._env is None:
            raise closed_error()
        return self._env

    def close(self) -> None:
        """Close the simulator; calling it twice is harmless."""
        env, self._env = self._env, None
        if env is not None:
            with quiet():
                env.close()
                self._stack.close()
            Simulator._open = False


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn what goes wrong while Isaac Lab starts into one sentence with a remedy."""
    try:
        yield
    except ZprlError:
        raise
    except FileNotFoundError as error:
        raise EnvironmentProblem(
            f"an asset is missing: {error}",
            remedy=f"put it there, or set task.assets to nvidia and {_ROOT_VARIABLE} to the folder "
            "that holds `Isaac/`",
        ) from error
    except Exception as error:  # whatever a native engine raises is a machine that cannot run it
        if module := _missing_module(error):
            raise EnvironmentProblem(
                f"Isaac Lab needs the module '{module}' for this", remedy=_INSTALL
            ) from error

        text = str(error).strip().splitlines() or [type(error).__name__]
        raise EnvironmentProblem(
            f"Isaac Lab does not start: {text[0][:300]}",
            remedy="`zprl doctor` says what is installed; try the other task.physics or device cpu",
        ) from error


def _missing_module(error: BaseException | None) -> str | None:
    """Return the module that is not installed, if that is behind the error.

    Isaac Lab reports of some modules only that a class could not be resolved.
    """
    while error is not None:
        if isinstance(error, ModuleNotFoundError):
            return error.name
        error = error.__cause__ or error.__context__
    return None
