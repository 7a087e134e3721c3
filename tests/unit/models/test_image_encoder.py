"""The image encoder: the published network, the published widths, and policies without pictures as they always were."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from zprl import config, durable, seeding
from zprl.data.normalizer import Normalizer
from zprl.errors import DataError
from zprl.models import image_encoder
from zprl.models.bundle import load_policy, save_policy
from zprl.models.image_encoder import CameraEncoder, ImageSpec, ResNet18, SpatialEmbeddings, crop, embedding_dim
from zprl.models.policy import FlowPolicy, PolicySpec

SMALL = {"channels": (16, 16), "features": 8, "spatial_blocks": 2}
TINY = {"horizon": 4, "chunk_steps": 4, "encoder_hidden": (8,), "mlp_hidden": (16,), "time_embedding_dim": 8, "flow_steps": 2}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(*shape, seed=0):
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=generator(seed))


def camera(key="front", size=(20, 24), cut=(16, 16), **changes):
    return ImageSpec(key=key, size=size, crop=cut, **{**SMALL, **changes})


def image_policy(*, images=None, obs_dims=None, obs_steps=1, seed=0):
    images = (camera("front"), camera("wrist", (12, 12), (9, 10))) if images is None else images
    obs_dims = obs_dims or {"position": 3, "gripper": 1}
    actions = torch.arange(12.0).view(4, 3)
    normalizer = Normalizer.fit({k: torch.arange(4.0 * d).view(4, d) for k, d in obs_dims.items()}, actions)
    width = embedding_dim(obs_dims, images, obs_steps)
    sizes = {**TINY, "obs_steps": obs_steps, "horizon": 4 + obs_steps - 1, "embedding_dim": width}
    spec = PolicySpec(
        obs_dims=obs_dims, action_dim=3, policy=config.Policy(**sizes), vib=config.Vib(latent_dim=2, hidden=(8,)), images=images
    )
    return FlowPolicy(spec, normalizer, seed=seed)


def observations(policy, rows=2, seed=0):
    spec, steps = policy.spec, policy.spec.policy.obs_steps
    states = {k: torch.randn(rows, steps, d, generator=generator(seed)) for k, d in spec.obs_dims.items()}
    return states | {image.key: pictures(rows, steps, *image.size, seed=seed + i) for i, image in enumerate(spec.images)}


# -- the network -------------------------------------------------------------------------------------------------------


def test_it_has_the_published_number_of_weights():
    assert sum(p.numel() for p in ResNet18().parameters()) == 11_176_512  # torchvision's 11,689,512 less fc's 512 x 1000 + 1000


def test_it_is_torchvisions_with_group_norm():
    """Same weights, same answer; torchvision is no dependency of ours."""
    models = pytest.importorskip("torchvision.models")
    theirs = models.resnet18(weights=None, norm_layer=lambda channels: torch.nn.GroupNorm(channels // 16, channels))
    theirs = torch.nn.Sequential(*list(theirs.children())[:-2])
    ours = ResNet18()
    with torch.no_grad():  # registered in the same order: stem, then blocks, each with its shortcut last
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.copy_(other + 0.01 * torch.randn(other.shape, generator=generator()))
            other.copy_(mine)
        x = torch.randn(2, 3, 76, 76, generator=generator())
        torch.testing.assert_close(ours(x), theirs(x))
        assert ours(x).shape == (2, 512, 3, 3)


def test_it_is_initialised_as_torchvisions():
    for module in ResNet18().modules():
        if isinstance(module, torch.nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        elif isinstance(module, torch.nn.GroupNorm):
            assert module.num_groups == module.num_channels // 16
            assert module.weight.eq(1).all()
            assert module.bias.eq(0).all()


@pytest.mark.parametrize(("side", "stages", "last"), [(76, 4, 3), (80, 4, 3), (116, 4, 4), (224, 4, 7), (16, 2, 2), (9, 2, 2), (1, 4, 1)])
def test_the_last_map_is_as_large_as_announced(side, stages, last):
    assert ResNet18.shrunk(side, stages) == last
    assert ResNet18((16,) * stages)(torch.zeros(1, 3, side, side)).shape[2:] == (last, last)


def test_spatial_embeddings_weigh_places():
    """By hand: 2 channels, 1 x 3 places, 2 blocks."""
    pool = SpatialEmbeddings(2, 1, 3, 2)
    with torch.no_grad():
        pool.weight.copy_(torch.tensor([[[1.0, 0, 0], [0, 0, 1]], [[1, 1, 1], [0, 2, 0]]]))
    maps = torch.tensor([[[[1.0, 2, 3]], [[4, 5, 6]]]])
    assert pool(maps).tolist() == [[1, 3, 15, 10]]
    assert SpatialEmbeddings(64, 3, 3, 8).weight.std().item() == pytest.approx(1 / 3, rel=0.05)


def test_the_head_of_the_paper():
    encoder = CameraEncoder(ImageSpec(key="agentview", size=(84, 84), crop=(76, 76)))
    linear, norm, squash = encoder.head
    assert (linear.in_features, linear.out_features) == (512 * 8, 256)
    assert isinstance(norm, torch.nn.LayerNorm)
    assert isinstance(squash, torch.nn.Tanh)
    with torch.no_grad():
        found = encoder(pictures(1, 1, 84, 84))
    assert found.shape == (1, 1, 256)
    assert found.abs().max() < 1


# -- pictures to its input ---------------------------------------------------------------------------------------------


def test_pixels_are_scaled_twice_as_in_diffusion_policy(monkeypatch):
    """First to [-1, 1], then ImageNet's normalisation on top: black is (-1 - mean) / std, white (1 - mean) / std."""
    seen = []
    encoder = CameraEncoder(camera(size=(16, 16)))
    monkeypatch.setattr(encoder.maps, "forward", lambda x: seen.append(x) or torch.zeros(len(x), 16, 2, 2))
    for value in (0, 255, 51):
        encoder(torch.full((1, 1, 16, 16, 3), value, dtype=torch.uint8))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for x, level in zip(seen, (-1.0, 1.0, 51 / 127.5 - 1), strict=True):
        np.testing.assert_allclose(x[0, :, 0, 0].numpy(), (level - mean) / std, rtol=1e-5)
        assert x.shape == (1, 3, 16, 16)


def test_without_a_generator_the_middle_is_cut_out():
    images = pictures(2, 3, 10, 9)
    assert torch.equal(crop(images, (6, 4), None), images[:, :, 2:8, 2:6])
    assert torch.equal(crop(images, (10, 9), None), images)


def test_drawn_crops_lie_everywhere_and_are_cut_whole():
    """Each picture names its own pixels, so that a crop tells where it was cut."""
    rows, height, width, size = 400, 7, 6, (4, 5)
    names = torch.arange(height * width, dtype=torch.uint8).view(1, 1, height, width, 1).expand(rows, 2, -1, -1, 3)
    cut = crop(names, size, generator())
    assert cut.shape == (rows, 2, *size, 3)
    tops, lefts = cut[:, 0, 0, 0, 0] // width, cut[:, 0, 0, 0, 0] % width
    for row in range(0, rows, 37):
        top, left = int(tops[row]), int(lefts[row])
        assert torch.equal(cut[row], names[row, :, top : top + 4, left : left + 5])
    places = {(int(t), int(s)) for t, s in zip(tops, lefts, strict=True)}
    assert places == {(t, s) for t in range(4) for s in range(2)}, "every place, both ends included"


def test_crops_depend_on_the_generator_alone():
    images = pictures(8, 1, 20, 24)
    before = torch.random.get_rng_state()
    assert torch.equal(crop(images, (16, 16), generator(1)), crop(images, (16, 16), generator(1)))
    assert not torch.equal(crop(images, (16, 16), generator(1)), crop(images, (16, 16), generator(2)))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(1, 1, 20, 24, 3), pictures(1, 1, 24, 20), pictures(1, 1, 20, 24)[..., :1], pictures(1, 1, 20, 24).movedim(-1, 2)],
)
def test_other_pictures_are_refused_by_name(wrong):
    with pytest.raises(DataError, match="'front' wants pictures of uint8"):
        CameraEncoder(camera())(wrong)


@pytest.mark.parametrize("changes", [{"cut": (21, 16)}, {"cut": (16, 25)}, {"channels": (24,)}, {"channels": ()}, {"size": (4096, 4)}])
def test_impossible_specs_are_refused(changes):
    with pytest.raises(ValidationError):
        camera(**changes)


# -- the embedding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cameras", "states", "obs_steps", "width"),
    [(2, 9, 1, 521), (4, 18, 1, 1042), (1, 24, 1, 280), (1, 9, 1, 265), (3, 16, 1, 784), (1, 7, 3, 789)],
    ids=["can-square", "transport", "adroit", "metaworld", "dual-arm", "flip-egg"],
)
def test_the_papers_widths(cameras, states, obs_steps, width):
    images = tuple(ImageSpec(key=f"camera{i}", size=(32, 32), crop=(32, 32), channels=(16,)) for i in range(cameras))
    assert embedding_dim({"state": states}, images, obs_steps) == width
    policy = image_policy(images=images, obs_dims={"state": states}, obs_steps=obs_steps)
    with torch.no_grad():
        assert policy.embed(observations(policy)).shape == (2, width)


def test_an_embedding_width_that_does_not_fit_is_named():
    spec = image_policy().spec
    with pytest.raises(ValidationError, match="embedding_dim is 6, but pictures and states together are 20 wide"):
        PolicySpec.model_validate({**spec.model_dump(), "policy": {**spec.policy.model_dump(), "embedding_dim": 6}})


def test_a_key_cannot_be_picture_and_state():
    with pytest.raises(ValidationError, match="stands twice"):
        image_policy(images=(camera("position"),))


@torch.no_grad()
def test_states_follow_the_pictures_frame_by_frame():
    policy = image_policy(obs_steps=2)
    obs = observations(policy)
    embedding = policy.embed(obs).view(2, 2, -1)
    states = policy.normalizer.normalize_obs({k: obs[k] for k in ("position", "gripper")})
    assert torch.equal(embedding[..., 16:], torch.cat([states["position"], states["gripper"]], -1)), "as they are, no network"
    for i, key in enumerate(("front", "wrist")):
        alone = policy.encoder.cameras[i](obs[key])
        assert torch.equal(embedding[..., 8 * i : 8 * i + 8], alone)


@torch.no_grad()
def test_every_camera_has_weights_of_its_own():
    one, two = image_policy(images=(camera("a"), camera("b"))).encoder.cameras
    images = pictures(1, 1, 20, 24)
    assert not torch.equal(one(images), two(images))
    assert not set(map(id, one.parameters())) & set(map(id, two.parameters()))


@torch.no_grad()
def test_evaluation_is_a_pure_function_of_the_pictures():
    policy = image_policy()
    obs = observations(policy)
    assert torch.equal(policy.embed(obs), policy.train().embed(obs)), "modes change nothing: there is no batch statistic"
    assert torch.equal(policy.embed(obs, generator(1)), policy.embed(obs, generator(1)))
    assert not torch.equal(policy.embed(obs), policy.embed(obs, generator(1)))
    alone = policy.embed({key: value[:1] for key, value in obs.items()})
    torch.testing.assert_close(policy.embed(obs)[:1], alone, msg="the other rows of a batch are nobody's business")


# -- bundles -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_bundle_with_cameras_comes_back(tmp_path):
    policy = image_policy(images=(camera("wrist"), camera("front", (12, 12), (9, 10))), obs_steps=2)
    save_policy(tmp_path / "base", policy, {"seed": 0})
    loaded = load_policy(tmp_path / "base")
    assert loaded.spec == policy.spec
    assert [image.key for image in loaded.spec.images] == ["wrist", "front"], "their order is part of the policy"
    obs, noise = observations(policy), policy.draw_noise(2, generator())
    assert torch.equal(loaded.act(obs, noise), policy.act(obs, noise))
    save_policy(tmp_path / "again", loaded, {"seed": 0})
    assert durable.digest(tmp_path / "base") == durable.digest(tmp_path / "again")


@pytest.mark.parametrize(
    "change",
    [
        lambda images: images[0].update(features=9),
        lambda images: images[0].update(crop=[99, 99]),
        lambda images: images[0].update(channels=[2048] * 6),
        lambda images: images[0].update(size=[10**9, 10**9]),
        lambda images: images[0].update(loader="os.system"),
        lambda images: images.append(images[0]),
        lambda images: images.clear(),
    ],
)
def test_a_document_that_lies_about_cameras_is_refused(tmp_path, change):
    save_policy(tmp_path, image_policy(), {})
    document = json.loads((tmp_path / "bundle.json").read_text())
    change(document["spec"]["images"])
    (tmp_path / "bundle.json").write_text(json.dumps(document))
    names = ("bundle.json", "policy.safetensors")
    durable.write_text(tmp_path / "SHA256SUMS", "".join(f"{durable.digest(tmp_path / n)}  {n}\n" for n in names))
    with pytest.raises(DataError):
        load_policy(tmp_path)


# -- policies without pictures -----------------------------------------------------------------------------------------

# Measured with the code as it was before policies could see: weights, and the bundle's bytes.
BEFORE = {
    "mlp": (
        "929e83383f3fba0b6fd40376b0329131de7107963fb9211634e55157f6f75897",
        "5afd6b3a17fd1e7a6217a21a53ffb70f3bad2bfdd37c7124c453b389d29d8c61",
    ),
    "unet": (
        "79445b0ec65d0be4240fe3f727fa7026f06c5667477917fb85c86f60d2a09e4e",
        "c5b6b71e6bf0cba470975d5b8e939b4c85a51d9860ab4e8184628b8ca0d2f691",
    ),
}


@pytest.mark.parametrize("net", BEFORE)
def test_policies_on_states_are_the_same_to_the_bit(tmp_path, net):
    obs = {"position": torch.arange(12.0).view(4, 3) / 8, "tool_quat": torch.arange(16.0).view(4, 4) / 16}
    actions = torch.arange(20.0).view(4, 5) / 4
    actions[:, 2] = 0.25
    sizes = {"horizon": 8, "chunk_steps": 4, "embedding_dim": 6, "encoder_hidden": (8,), "mlp_hidden": (16, 16), "time_embedding_dim": 8}
    settings = config.Policy(**sizes, unet_channels=(8, 16), unet_groups=4, unet_kernel=3, velocity_net=net)
    spec = PolicySpec(obs_dims={"position": 3, "tool_quat": 4}, action_dim=5, policy=settings, vib=config.Vib(latent_dim=2, hidden=(8,)))
    policy = FlowPolicy(spec, Normalizer.fit(obs, actions), seed=7)
    weights = hashlib.sha256()
    for name, value in sorted(policy.state_dict().items()):
        weights.update(name.encode() + value.contiguous().numpy().tobytes())
    save_policy(tmp_path / "base", policy, {"seed": 7})
    assert (weights.hexdigest(), durable.digest(tmp_path / "base")) == BEFORE[net]
    assert "images" not in json.loads((tmp_path / "base/bundle.json").read_text())["spec"]
    assert "images" not in spec.model_dump()
    assert load_policy(tmp_path / "base").spec.images == ()


def test_cameras_change_no_other_parts_start():
    policy = image_policy(seed=3)
    torch.manual_seed(seeding.derive(3, "init-vib"))
    from zprl.models.vib import Vib

    again = Vib(policy.spec.policy.embedding_dim, 2, hidden=(8,))
    assert all(torch.equal(a, b) for a, b in zip(policy.vib.parameters(), again.parameters(), strict=True))
    assert image_encoder.GROUP == 16
