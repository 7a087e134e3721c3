"""Images to embeddings: the published network, crops that can be drawn again, and nothing changed for policies on states."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tests.small_policy import (
    ACTION_DIM,
    OBS_DIMS,
    small_config,
    small_normalizer,
    small_obs,
    small_policy,
)
from zprl import durable
from zprl.config import VibConfig
from zprl.data.normalizer import Normalizer
from zprl.errors import DataError
from zprl.models.bundle import load_policy, save_policy
from zprl.models.image_encoder import (
    CameraEncoder,
    ImageObsEncoder,
    ImageSpec,
    ResNet18,
    SpatialEmbeddings,
    crop,
    embedding_dim,
)
from zprl.models.policy import FlowPolicy, PolicySpec
from zprl.rl.replay import Replay
from zprl.rl.steering_spaces import LatentResidual

PUBLISHED = 11_176_512  # ResNet-18 without its classifier; group normalisation has as many weights as batch normalisation
SMALL = {"channels": (16, 32), "features": 5, "spatial_blocks": 2}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(*sizes, rows=2, frames=1, seed=0):
    return tuple(
        torch.randint(
            0, 256, (rows, frames, *size, 3), dtype=torch.uint8, generator=generator(seed + i)
        )
        for i, size in enumerate(sizes)
    )


def small_spec(*, obs_steps=1, keys=("front", "wrist"), **changes):
    cameras = tuple(ImageSpec(key=key, size=(20, 24), crop=(16, 18), **SMALL) for key in keys)
    width = embedding_dim(OBS_DIMS, cameras, obs_steps)
    policy = small_config(**{"obs_steps": obs_steps, "embedding_dim": width, **changes})
    return PolicySpec(
        obs_dims=OBS_DIMS,
        action_dim=ACTION_DIM,
        policy=policy,
        vib=VibConfig(latent_dim=2, hidden=(8,)),
        images=cameras,
    )


def seeing(*, seed=0, **changes):
    return FlowPolicy(small_spec(**changes), small_normalizer(), seed=seed)


def observe(policy, rows=3, seed=0):
    spec = policy.spec
    frames = images(
        *(image.size for image in spec.images), rows=rows, frames=spec.policy.obs_steps, seed=seed
    )
    return small_obs(policy, rows, seed) | {
        image.key: p for image, p in zip(spec.images, frames, strict=True)
    }


# -- the network -----------------------------------------------------------------------------------


def test_resnet_has_the_published_number_of_weights():
    assert sum(p.numel() for p in ResNet18().parameters()) == PUBLISHED


def test_resnet_is_torchvisions():
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.resnet18(
        weights=None, norm_layer=lambda c: nn.GroupNorm(c // 16, c)
    )
    theirs = nn.Sequential(*list(theirs.children())[:-2])
    ours = ResNet18()
    own, other = list(ours.parameters()), list(theirs.parameters())
    # A block's shortcut stands at its end in both.
    assert [p.shape for p in own] == [p.shape for p in other]
    with torch.no_grad():
        for a, b in zip(own, other, strict=True):
            a.copy_(b)
        x = torch.randn(2, 3, 76, 76, generator=generator())
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("side", "stages", "expected"),
    [(76, 4, 3), (224, 4, 7), (128, 4, 4), (116, 4, 4), (33, 2, 5), (28, 3, 2)],
)
def test_size_of_the_last_map(side, stages, expected):
    assert ResNet18.shrunk(side, stages) == expected
    assert ResNet18((16,) * stages)(torch.zeros(1, 3, side, side)).shape == (
        1,
        16,
        expected,
        expected,
    )


def test_every_norm_has_groups_of_sixteen_channels():
    norms = [m for m in ResNet18().modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == 20
    assert all(n.num_channels == 16 * n.num_groups for n in norms)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in ResNet18().modules())


def test_spatial_embeddings_by_hand():
    pool = SpatialEmbeddings(2, 1, 2, 2)
    with torch.no_grad():
        pool.weight.copy_(torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, -1.0]]]))
    maps = torch.tensor([[[[3.0, 5.0]], [[10.0, 4.0]]]])  # two channels, one row, two columns
    assert pool(maps).tolist() == [[3.0, 5.0, 14.0, 6.0]]


# -- widths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "cameras", "states", "obs_steps", "width"),
    [
        ("can, square", 2, {"pos": 3, "quat": 4, "gripper": 2}, 1, 521),
        ("transport", 4, {"left": 9, "right": 9}, 1, 1042),
        ("Adroit", 1, {"state": 24}, 1, 280),
        ("MetaWorld", 1, {"state": 9}, 1, 265),
        ("two real arms", 3, {"left": 8, "right": 8}, 1, 784),
        ("egg flip", 1, {"joints": 7}, 3, 789),
    ],
)
def test_widths_of_the_papers_embeddings(task, cameras, states, obs_steps, width):
    specs = [ImageSpec(key=f"camera_{i}", size=(84, 84), crop=(76, 76)) for i in range(cameras)]
    assert embedding_dim(states, specs, obs_steps) == width
    with torch.device("meta"):
        assert ImageObsEncoder(states, specs, obs_steps=obs_steps).embedding_dim == width


def test_the_papers_encoder_gives_that_width():
    spec = ImageSpec(key="agentview", size=(84, 84), crop=(76, 76))
    encoder = ImageObsEncoder({"pos": 3}, [spec], obs_steps=2).eval()
    with torch.no_grad():
        out = encoder(
            {"agentview": images((84, 84), frames=2)[0], "pos": torch.full((2, 2, 3), 7.0)}
        )
    assert out.shape == (2, 2 * (256 + 3))
    # Frame after frame, each with its features and then its states, raw.
    frames = out.view(2, 2, 259)
    assert (frames[..., 256:] == 7).all()
    assert frames[..., :256].abs().max() < 1
    assert encoder.cameras[0].pool.weight.shape == (512, 8, 9)
    assert encoder.cameras[0].head[0].weight.shape == (256, 512 * 8)


# -- crops and pixels ------------------------------------------------------------------------------


def test_crops():
    (image,) = images((20, 24), rows=64, frames=2)
    middle = crop(image, (16, 18), None)
    assert torch.equal(middle, image[:, :, 2:18, 3:21])
    drawn = crop(image, (16, 18), generator())
    assert drawn.shape == (64, 2, 16, 18, 3)
    assert torch.equal(drawn, crop(image, (16, 18), generator())), "a function of the generator"
    assert not torch.equal(drawn, crop(image, (16, 18), generator(1)))
    places = set()
    for row in range(64):  # each is some part of its own image, the same for both frames
        found = [
            (top, left)
            for top in range(5)
            for left in range(7)
            if torch.equal(drawn[row], image[row, :, top : top + 16, left : left + 18])
        ]
        assert len(found) == 1
        places |= set(found)
    assert len(places) > 20
    assert {0, 4} <= {top for top, _ in places}
    assert {0, 6} <= {left for _, left in places}
    assert torch.equal(crop(image, (20, 24), generator()), image)


def test_pixels_are_mapped_as_the_official_code_does():
    encoder = CameraEncoder(ImageSpec(key="x", size=(16, 16), crop=(16, 16), **SMALL))
    seen = []
    encoder.maps.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    image = torch.zeros(1, 1, 16, 16, 3, dtype=torch.uint8)
    image[..., 0], image[..., 1], image[..., 2] = 255, 0, 51
    encoder(image)
    # 255 -> 1, 0 -> -1, 51 -> -0.6; then ImageNet's mean and deviation.
    expected = [(1 - 0.485) / 0.229, (-1 - 0.456) / 0.224, (-0.6 - 0.406) / 0.225]
    torch.testing.assert_close(seen[0][0, :, 0, 0], torch.tensor(expected))
    assert seen[0].shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(1, 1, 20, 24, 3),
        torch.zeros(1, 1, 24, 20, 3, dtype=torch.uint8),
        torch.zeros(1, 1, 3, 20, 24, dtype=torch.uint8),
    ],
)
def test_other_images_are_refused(image):
    policy = seeing()
    with pytest.raises(DataError, match="'front' wants images of uint8"):
        policy.embed(observe(policy, 1) | {"front": image})


# -- in a policy -----------------------------------------------------------------------------------


def test_embed_concatenates_cameras_and_normalised_states_over_frames():
    policy = seeing(obs_steps=2, horizon=8)
    obs = observe(policy)
    e = policy.embed(obs).view(3, 2, 5 + 5 + 3 + 1)
    states = policy.normalizer.normalize_obs({key: obs[key] for key in OBS_DIMS})
    assert torch.equal(e[..., 10:], torch.cat([states["position"], states["gripper"]], -1))
    alone = policy.encoder.cameras[1](obs["wrist"])
    torch.testing.assert_close(e[..., 5:10], alone)
    changed = obs | {"wrist": 255 - obs["wrist"]}
    difference = (policy.embed(changed).view_as(e) != e).any(0).any(0)
    assert difference.tolist() == [False] * 5 + [True] * 5 + [False] * 4, (
        "each camera has its own features"
    )


def test_random_crops_only_when_asked_for():
    policy = seeing().freeze()
    obs = observe(policy)
    assert torch.equal(policy.embed(obs), policy.embed(obs))
    assert torch.equal(policy.embed(obs, generator()), policy.embed(obs, generator()))
    assert not torch.equal(policy.embed(obs, generator()), policy.embed(obs))


def test_cameras_have_weights_of_their_own():
    one, two = seeing().encoder.cameras
    assert not torch.equal(one.maps[0].weight, two.maps[0].weight)


def test_images_change_no_other_part():
    """A part's first weights depend on its own sizes alone."""
    width = small_spec().policy.embedding_dim
    with_images, without = seeing().state_dict(), small_policy(embedding_dim=width).state_dict()
    shared = [key for key in without if key.startswith(("velocity_net", "vib"))]
    assert shared
    assert all(torch.equal(with_images[key], without[key]) for key in shared)


def test_bundle_round_trip(tmp_path):
    policy = seeing(keys=("wrist", "a.front"))  # the order counts, and a key may hold a point
    save_policy(tmp_path / "b", policy, {})
    loaded = load_policy(tmp_path / "b")
    assert loaded.spec == policy.spec
    assert loaded.spec.obs_keys == ("position", "gripper", "wrist", "a.front")
    obs, noise = observe(policy), policy.draw_noise(3, generator())
    assert torch.equal(loaded.act(obs, noise), policy.act(obs, noise))
    save_policy(tmp_path / "again", loaded, {})
    assert durable.digest(tmp_path / "b") == durable.digest(tmp_path / "again")


def test_a_bundle_that_asks_for_too_much_allocates_nothing(tmp_path):
    save_policy(tmp_path / "b", seeing(), {})
    document = json.loads((tmp_path / "b/bundle.json").read_text())
    document["spec"]["images"][0] |= {
        "channels": [2048] * 6,
        "size": [2048, 2048],
        "crop": [2048, 2048],
    }
    (tmp_path / "b/bundle.json").write_text(json.dumps(document))
    names = ("bundle.json", "policy.safetensors")
    durable.write_text(
        tmp_path / "b/SHA256SUMS",
        "".join(f"{durable.digest(tmp_path / 'b' / n)}  {n}\n" for n in names),
    )
    with pytest.raises(DataError, match="its spec asks for"):
        load_policy(tmp_path / "b")


@pytest.mark.parametrize(
    "change",
    [
        lambda images: images[0].update(features=9),
        lambda images: images[0].update(crop=[99, 99]),
        lambda images: images[0].update(loader="os.system"),
        lambda images: images.append(images[0]),
        lambda images: images.reverse() or images[0].update(features=7),
        lambda images: images.clear(),
    ],
)
def test_documents_that_lie_about_cameras_are_refused(tmp_path, change):
    save_policy(tmp_path / "b", seeing(), {})
    document = json.loads((tmp_path / "b/bundle.json").read_text())
    change(document["spec"]["images"])
    (tmp_path / "b/bundle.json").write_text(json.dumps(document))
    names = ("bundle.json", "policy.safetensors")
    durable.write_text(
        tmp_path / "b/SHA256SUMS",
        "".join(f"{durable.digest(tmp_path / 'b' / n)}  {n}\n" for n in names),
    )
    with pytest.raises(DataError):
        load_policy(tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"crop": (21, 4)}, "larger than its images"),
        ({"channels": (24,)}, "multiple of 16"),
        ({"channels": ()}, "at least 1"),
        ({"size": (4096, 4096)}, "2048"),
        ({"colour": 1}, "Extra"),
    ],
)
def test_impossible_cameras_are_refused(change, says):
    with pytest.raises(ValidationError, match=says):
        ImageSpec.model_validate({"key": "x", "size": (20, 24), "crop": (16, 18), **change})


def test_widths_that_do_not_fit_are_refused():
    with pytest.raises(
        ValidationError, match="embedding_dim is 6, but images and states together are 14 wide"
    ):
        small_spec(embedding_dim=6)
    with pytest.raises(ValidationError, match="twice"):
        small_spec(keys=("front", "position"))


# -- policies on states are what they were ---------------------------------------------------------


def test_policies_on_states_have_the_weights_and_bundles_they_always_had(tmp_path):
    policy = small_policy()
    total = hashlib.sha256()
    for name, p in sorted(policy.named_parameters()):
        total.update(name.encode() + p.detach().numpy().tobytes())
    # Computed with the code before there were images.
    assert total.hexdigest() == WEIGHTS_BEFORE_IMAGES
    save_policy(tmp_path / "b", policy, {})
    document = json.loads((tmp_path / "b/bundle.json").read_text())
    assert set(document["spec"]) == {"obs_dims", "action_dim", "policy", "vib"}
    assert policy.spec.obs_keys == tuple(OBS_DIMS)
    assert torch.equal(
        policy.embed(small_obs(policy, 3), generator()), policy.embed(small_obs(policy, 3))
    )


WEIGHTS_BEFORE_IMAGES = "54b38cad77cb445c85af8bf3d5a4e39d9ab8fbe742558ca1fedb51680d78666a"


# Computed with the code before there were images: weights, and the bytes of the bundle.
BEFORE_IMAGES = {
    "mlp": (
        "929e83383f3fba0b6fd40376b0329131de7107963fb9211634e55157f6f75897",
        "5afd6b3a17fd1e7a6217a21a53ffb70f3bad2bfdd37c7124c453b389d29d8c61",
    ),
    "unet": (
        "79445b0ec65d0be4240fe3f727fa7026f06c5667477917fb85c86f60d2a09e4e",
        "c5b6b71e6bf0cba470975d5b8e939b4c85a51d9860ab4e8184628b8ca0d2f691",
    ),
}


@pytest.mark.parametrize("net", BEFORE_IMAGES)
def test_bundles_of_policies_on_states_are_the_same_to_the_byte(tmp_path, net):
    """The normaliser is fitted on eighths, so that no processor rounds another way."""
    obs = {
        "position": torch.arange(12.0).view(4, 3) / 8,
        "tool_quat": torch.arange(16.0).view(4, 4) / 16,
    }
    actions = torch.arange(20.0).view(4, 5) / 4
    actions[:, 2] = 0.25
    settings = small_config(velocity_net=net)
    spec = PolicySpec(
        obs_dims={"position": 3, "tool_quat": 4},
        action_dim=5,
        policy=settings,
        vib=VibConfig(latent_dim=2, hidden=(8,)),
    )
    policy = FlowPolicy(spec, Normalizer.fit(obs, actions), seed=7)
    weights = hashlib.sha256()
    for name, value in sorted(policy.state_dict().items()):
        weights.update(name.encode() + value.contiguous().numpy().tobytes())
    save_policy(tmp_path / "b", policy, {"seed": 7})
    assert (weights.hexdigest(), durable.digest(tmp_path / "b")) == BEFORE_IMAGES[net]
    assert load_policy(tmp_path / "b").spec.images == ()


# -- RL sees embeddings only -----------------------------------------------------------------------


def test_the_embedding_is_all_that_rl_needs():
    """From the embedding alone: state, anchor, chunk, and a replay row without an image in it."""
    policy = seeing().freeze()
    obs, noise = observe(policy), policy.draw_noise(3, generator())
    space = LatentResidual()
    embedding = policy.embed(obs)
    anchor = space.anchor(policy, embedding, noise, sample=None)
    chunk = policy.executed(space.sequence(policy, embedding, anchor, noise))
    assert torch.equal(chunk, policy.act(obs, noise)), (
        "a residual of zero is the base policy, bit for bit"
    )

    state = torch.cat([embedding, anchor], -1)
    replay = Replay(16, state.shape[1], anchor.shape[1])
    replay.add(
        state=state, point=anchor, reward=torch.zeros(3), discount=torch.ones(3), next_state=state
    )
    assert torch.equal(replay.data["inputs"][:3], torch.cat([state, anchor], -1))
    row = sum(value[0].numel() * value.element_size() for value in replay.data.values())
    image_values = sum(obs[image.key][0].numel() for image in policy.spec.images)
    assert row < image_values / 10
