"""Images of MuJoCo worlds on any machine: small ones, off screen, without costly effects.

With MuJoCo's own defaults an image of 84 x 84 takes 0.1 s on a CPU: the shadow map has 4,096
pixels a side and every pixel is drawn four times.  Without shadows, reflections, sky and haze it is
ten times as fast.  One context serves all worlds of a task, since they differ in numbers only, not
in what is drawn.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import mujoco
import numpy as np

from zprl.errors import ConfigError, EnvironmentProblem

if TYPE_CHECKING:
    from mujoco import MjData, MjModel

COSTLY = (
    mujoco.mjtRndFlag.mjRND_SHADOW,
    mujoco.mjtRndFlag.mjRND_REFLECTION,
    mujoco.mjtRndFlag.mjRND_SKYBOX,
    mujoco.mjtRndFlag.mjRND_HAZE,
)
MAX_GEOMS = 10_000


class CameraRenderer:
    """Renderer of a world's cameras.

    Args:
        model: Any world's model.
        cameras: Names of its cameras.
        size: Height and width in pixels.
        hidden_groups: Groups of geoms that are not drawn, such as collision shapes.

    Raises:
        ConfigError: no such camera.
        EnvironmentProblem: this machine cannot render.
    """

    def __init__(
        self, model: MjModel, cameras: Sequence[str], size: int, hidden_groups: Sequence[int] = ()
    ) -> None:
        known = [model.camera(i).name for i in range(model.ncam)]
        if missing := [name for name in cameras if name not in known]:
            raise ConfigError(
                f"there is no camera '{missing[0]}' in this world",
                remedy=f"its cameras: {', '.join(known)}",
            )

        self.names = tuple(cameras)
        self.size = size
        model.vis.quality.offsamples, model.vis.quality.shadowsize = 0, 0
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        try:
            self._gl = mujoco.GLContext(size, size)
            self._gl.make_current()
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except Exception as error:  # every backend fails in its own way
            raise EnvironmentProblem(
                "MuJoCo cannot draw here with "
                f"MUJOCO_GL={os.environ.get('MUJOCO_GL', 'unset')}: {error}",
                remedy="install libegl1 and libgl1-mesa-dri (apt), or libosmesa6 and set "
                "MUJOCO_GL=osmesa",
            ) from error

        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, MAX_GEOMS)
        for flag in COSTLY:
            self._scene.flags[flag] = 0
        self._option = mujoco.MjvOption()
        for group in hidden_groups:
            self._option.geomgroup[group] = 0

        self._cameras = []
        for name in cameras:
            camera = mujoco.MjvCamera()
            camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
            camera.fixedcamid = model.camera(name).id
            self._cameras.append(camera)

    def draw(self, model: MjModel, data: MjData) -> list[np.ndarray]:
        """Return images (H, W, 3) uint8 of a world as it is now, one per camera."""
        self._gl.make_current()
        area = mujoco.MjrRect(0, 0, self.size, self.size)
        everything = mujoco.mjtCatBit.mjCAT_ALL.value

        images = []
        for camera in self._cameras:
            mujoco.mjv_updateScene(model, data, self._option, None, camera, everything, self._scene)
            mujoco.mjr_render(area, self._scene, self._context)
            image = np.empty((self.size, self.size, 3), np.uint8)
            mujoco.mjr_readPixels(image, None, area, self._context)
            images.append(image[::-1])  # OpenGL's first line is the lowest
        return images

    def close(self) -> None:
        """Free the context."""
        self._context.free()
        self._gl.free()
