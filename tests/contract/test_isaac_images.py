"""Images of Isaac's worlds, drawn without Kit: the contract holds, and things are where a pinhole camera must show them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.on_device import HandedOver
from zprl.config import Task
from zprl.data.ingest import read_all
from zprl.data.readers.robomimic import RobomimicReader
from zprl.data.sources import Source
from zprl.data.store import EpisodeStore, fit_normalizer
from zprl.data.validation import ValidationLimits
from zprl.envs import make, rotation
from zprl.envs.check import check_env
from zprl.envs.isaac.cameras import CAMERAS
from zprl.envs.isaac.franka import TOOL_OFFSET
from zprl.envs.record_demos import RecordSettings, record
from zprl.errors import ConfigError

pytestmark = pytest.mark.isaac
pytest.importorskip("isaaclab_ov")

SIZE, STEPS = 64, 12
APERTURE = 20.955  # USD's default horizontal aperture; focal lengths are in the same unit


def seen(**about) -> Task:
    return Task(
        **(
            {
                "name": "isaac/stack",
                "episode_steps": STEPS,
                "cameras": tuple(CAMERAS),
                "image_size": SIZE,
            }
            | about
        )
    )


def orange(pixels: torch.Tensor) -> torch.Tensor:
    red, green, blue = pixels.float().unbind(-1)
    return (red > 2 * blue) & (red > 1.5 * green)


def blue(pixels: torch.Tensor) -> torch.Tensor:
    red, _, blue = pixels.float().unbind(-1)
    return blue > 1.8 * red


def pixel(name: str, point: torch.Tensor, obs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Row and column (N, 2) at which camera ``name`` must show a point (N, 3) of the environment's frame."""
    view = CAMERAS[name]
    n = len(point)
    turn = torch.tensor(view.rotation).expand(n, 4)
    place = torch.tensor(view.position).expand(n, 3)
    if view.moves:  # on the hand, which is TOOL_OFFSET behind the tool
        tool, quat = obs["robot0_eef_pos"], obs["robot0_eef_quat"]
        hand = tool - rotation.rotate(quat, torch.tensor((0.0, 0.0, TOOL_OFFSET)).expand(n, 3))
        inside = rotation.rotate(conjugate(quat), point - hand)
        x, y, z = rotation.rotate(conjugate(turn), inside - place).unbind(1)  # right, down, forward
    else:
        forward, left, up = rotation.rotate(conjugate(turn), point - place).unbind(1)
        x, y, z = -left, -up, forward
    scale = SIZE * view.focal_length / APERTURE
    return torch.stack((SIZE / 2 + scale * y / z, SIZE / 2 + scale * x / z), 1)


def conjugate(quat: torch.Tensor) -> torch.Tensor:
    return quat * quat.new_tensor((-1.0, -1.0, -1.0, 1.0))


def at(images: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    row, column = where.floor().long().unbind(1)
    assert ((where >= 0) & (where < SIZE)).all(), "the test looks outside of the image"
    return images[torch.arange(len(images)), row, column]


@pytest.mark.gpu
def test_worlds_with_images_keep_the_contract(device: str) -> None:
    check_env(lambda: make(seen(cameras=("front", "wrist")), num_envs=2, device=device))


@pytest.mark.exhaustive
def test_newton_s_worlds_with_images_keep_the_contract() -> None:
    check_env(lambda: make(seen(physics="newton", cameras=("front", "wrist")), num_envs=2))


def shows_the_cubes(
    obs: dict[str, torch.Tensor], rows: torch.Tensor, cameras: tuple[str, ...]
) -> None:
    obs = {key: value[rows] for key, value in obs.items()}
    for name in cameras:
        for place, is_it in ((obs["object"][:, :3], orange), (obs["object"][:, 10:13], blue)):
            found = is_it(at(obs[f"{name}_image"], pixel(name, place, obs)))
            assert found.all(), f"{name}: {found.tolist()}"


@pytest.mark.gpu
def test_things_are_where_a_pinhole_camera_shows_them_at_every_moment(device: str) -> None:
    """At the start, after the arm has moved, in the last frame of an episode, and in the first of the next."""
    with make(seen(), num_envs=4, device=device) as made:
        env = HandedOver(made)
        obs = env.reset(1)
        every = torch.arange(4)
        shows_the_cubes(obs, every, ("front", "side"))
        for _ in range(STEPS - 1):
            away = env.hold()
            away[:, 0] -= 0.1
            result = env.step(away)
        assert not torch.equal(result.obs["front_image"], obs["front_image"]), "the arm has moved"
        shows_the_cubes(result.obs, every, ("front", "side"))
        end = env.step(away)
        assert end.truncated.all()
        shows_the_cubes(end.final_obs, every, ("front", "side"))
        shows_the_cubes(end.obs, every, ("front", "side"))
        assert (end.obs["object"][:, :2] - end.final_obs["object"][:, :2]).norm(
            dim=1
        ).max() > 0.05, "other starts, or nothing was tested"


@pytest.mark.gpu
def test_the_wrist_camera_rides_on_the_hand(device: str) -> None:
    """While the hand comes near, the middle of what is orange stays where the cube's centre must be seen."""
    with make(seen(episode_steps=60, cameras=("wrist",)), num_envs=2, device=device) as made:
        env = HandedOver(made)
        obs = env.reset(3)
        for step in range(50):
            over = env.hold()
            over[:, :2], over[:, 2] = obs["object"][:, :2], over[:, 2] - 0.2
            obs = env.step(over).obs
            if step >= 17:  # before, a finger hides a part of it
                for n, where in enumerate(pixel("wrist", obs["object"][:, :3], obs)):
                    middle = orange(obs["wrist_image"][n]).nonzero().float().mean(0) + 0.5
                    assert (middle - where).abs().max() < 1.0, (step, middle, where)
        assert (obs["robot0_eef_pos"] - obs["object"][:, :3])[:, :2].norm(dim=1).max() < 0.05


def test_a_step_without_a_look_draws_only_ended_episodes() -> None:
    with make(seen(cameras=("front",)), num_envs=2) as env:
        env.reset(0)
        for step in range(STEPS):
            result = env.step(env.hold(), render=False)
            assert "front_image" not in result.obs
            assert ("front_image" in result.final_obs) == (step == STEPS - 1)
        shows_the_cubes(result.final_obs, torch.arange(2), ("front",))
        assert list(env.step(env.hold()).obs)[-1] == "front_image"


def test_an_unknown_camera_is_named_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"no camera 'top'.*\n.*front, side, wrist"):
        make(seen(cameras=("front", "top")), num_envs=1)


def test_recorded_images_repeat_and_are_ingested(tmp_path) -> None:
    settings = RecordSettings(
        task=seen(name="isaac/lift-cube", cameras=("front",), image_size=32),
        num_envs=2,
        keep_failures=1.0,
    )
    files = [tmp_path / "a.hdf5", tmp_path / "b.hdf5"]
    for file in files:
        record(file, episodes=2, seed=1, settings=settings, progress=lambda n: None)
    assert files[0].read_bytes() == files[1].read_bytes()
    good = read_all(
        [Source(files[0], RobomimicReader(obs_keys=("robot0_eef_pos", "front_image")))],
        limits=ValidationLimits(min_length=2),
    ).good
    EpisodeStore.write(tmp_path / "store", good, fit_normalizer(good))
    store = EpisodeStore.open(tmp_path / "store")
    assert store.image_sizes == {"front_image": (32, 32)}
    assert all(np.ptp(np.asarray(image)) > 0 for image in store.obs["front_image"])
