"""Cameras of the worlds with the Franka: their places, their renderer, and when it renders.

Without Kit, Newton's ray tracer renders, on a CPU too and under either engine; under Isaac Sim RTX
does.  The two do not look alike.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from zprl.envs.isaac.usd import panda
from zprl.errors import ConfigError

if TYPE_CHECKING:
    from zprl.config import Engine, Task
    from zprl.envs.base import Obs


class CameraView(NamedTuple):
    """Place and optics of one camera.

    Attributes:
        prim: Its prim below an environment's.
        position: In its parent's frame [m].
        rotation: Quaternion xyzw in its parent's frame.
        convention: Axes of that rotation: ``world`` looks along +x with +z up, ``ros`` along +z
            with -y up.
        focal_length: For a sensor 20.955 wide: 22 sees 51 degrees, 14 sees 74.
        near: Nothing nearer is seen [m].
        moves: True where it hangs on a link.
    """

    prim: str
    position: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    convention: str
    focal_length: float
    near: float
    moves: bool


def _half(degrees: float) -> tuple[float, float]:
    """Return cosine and sine of half an angle."""
    return math.cos(math.radians(degrees) / 2), math.sin(math.radians(degrees) / 2)


def _looking(turn: float, down: float) -> tuple[float, float, float, float]:
    """Return a view turned from +x to the left, then down [degrees], as a quaternion xyzw."""
    (c, s), (d, e) = _half(turn), _half(down)
    return -s * e, c * e, s * d, c * d


def _tilted_in(degrees: float) -> tuple[float, float, float, float]:
    """Return the view from the hand's +x side towards its fingers, as a quaternion xyzw.

    The fingers are left and right in the image.
    """
    cos, sin = _half(-degrees)
    a = math.sqrt(0.5)  # a quarter of a turn about z first
    return a * sin, a * sin, a * cos, a * cos


CAMERAS = {
    "front": CameraView(
        "front", (1.20, 0.0, 0.55), _looking(180.0, 28.0), "world", 22.0, 0.05, False
    ),
    "side": CameraView(
        "side", (0.35, 0.90, 0.50), _looking(-80.0, 23.0), "world", 22.0, 0.05, False
    ),
    "wrist": CameraView(
        "/".join(
            (
                "Robot/Geometry/panda_link0",
                *(segment.name for segment in panda.ARM),
                "panda_hand/wrist",
            )
        ),
        (0.09, 0.0, 0.01),
        _tilted_in(degrees=35.0),
        "ros",
        14.0,
        0.02,
        True,
    ),
}
"""Cameras by name (ours): opposite the robot, on its left, and on its hand."""
_FAR = 4.0
"""Nothing farther is seen [m]: only the table and the ground are there."""


class Cameras:
    """Cameras of one world.

    Args:
        task: Its ``cameras`` and ``image_size``.

    Raises:
        ConfigError: there is no camera of that name.
    """

    def __init__(self, task: Task) -> None:
        if unknown := [name for name in task.cameras if name not in CAMERAS]:
            raise ConfigError(
                f"{task.name} has no camera '{unknown[0]}'",
                remedy=f"its cameras: {', '.join(CAMERAS)}",
            )
        self.names, self.size = task.cameras, task.image_size
        self.sizes = {f"{name}_image": (self.size, self.size) for name in self.names}
        self.render = True
        """True where the next frame is to be rendered; that of an ended episode always is."""

    def configure(self, config: Any, engine: Engine) -> None:
        """Hang the cameras into the scene, with an observation group ``images`` of their own."""
        if not self.names:
            return

        from isaaclab.managers import ObservationGroupCfg, ObservationTermCfg
        from isaaclab.sensors import CameraCfg
        from isaaclab.sim import PinholeCameraCfg

        renderer_config = renderer(engine)
        config.observations.images = ObservationGroupCfg(concatenate_terms=False)
        for name in self.names:
            view = CAMERAS[name]
            camera = CameraCfg(
                prim_path="{ENV_REGEX_NS}/" + view.prim,
                offset=CameraCfg.OffsetCfg(
                    pos=view.position, rot=view.rotation, convention=view.convention
                ),
                spawn=PinholeCameraCfg(
                    focal_length=view.focal_length, clipping_range=(view.near, _FAR)
                ),
                data_types=["rgb"],
                width=self.size,
                height=self.size,
                renderer_cfg=renderer_config,
                update_latest_camera_pose=view.moves,
            )
            setattr(config.scene, name, camera)
            term = ObservationTermCfg(func=lambda env, name=name: self._image(env, name))
            setattr(config.observations.images, f"{name}_image", term)

        # RTX renders once per step, and once more where an episode begins; without that its first
        # image is the last of the one before.
        config.num_rerenders_on_reset = 1 if engine == "isaacsim" else 0

    def images(self, obs: Any) -> Obs:
        """Return the images (N, H, W, 3) uint8 among Isaac Lab's observations, by key."""
        return dict(obs["images"]) if self.names else {}

    def _image(self, env: Any, name: str) -> torch.Tensor:
        if self.render or bool(env.reset_buf.any()):
            image: torch.Tensor = env.scene[name].data.output["rgb"].torch
            return image
        return torch.zeros(
            env.num_envs, self.size, self.size, 3, dtype=torch.uint8, device=env.device
        )


def renderer(engine: Engine) -> Any:
    """Return the configuration of Isaac Lab's renderer under an engine."""
    if engine != "isaacsim":
        from isaaclab_newton.renderers import NewtonWarpRendererCfg

        return NewtonWarpRendererCfg()

    from isaaclab_physx.renderers import IsaacRtxRendererCfg

    rtx = IsaacRtxRendererCfg()
    # The other modes mix in earlier frames: an image must show its own moment.
    rtx.global_settings.antialiasing_mode = "Off"
    return rtx
