"""Bundles: exact round trips, stable bytes, nothing read on trust."""

import json
import struct

import pytest
import torch

from tests.small_policy import small_obs, small_policy
from zprl import durable
from zprl.config import VibConfig
from zprl.errors import DataError
from zprl.models import bundle
from zprl.models.bundle import load_policy, read_bundle, save_policy, write_bundle

FILES = ("SHA256SUMS", "bundle.json", "policy.safetensors")


@pytest.fixture
def saved(tmp_path):
    save_policy(tmp_path / "base", small_policy(), {"seed": 0})
    return tmp_path / "base"


def reseal(folder):
    """Make the checksums right again, as whoever tampers on purpose would."""
    names = ("bundle.json", "policy.safetensors")
    durable.write_text(
        folder / "SHA256SUMS", "".join(f"{durable.digest(folder / n)}  {n}\n" for n in names)
    )


def edit(folder, change):
    document = json.loads((folder / "bundle.json").read_text())
    change(document)
    (folder / "bundle.json").write_text(json.dumps(document))
    reseal(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"velocity_net": "unet"},
        {"vib": VibConfig(enabled=False)},
        {"obs_steps": 2, "time_grid": "diffusers"},
    ],
)
def test_round_trip_acts_the_same_bit_for_bit(tmp_path, changes):
    policy = small_policy(**changes)
    save_policy(tmp_path / "b", policy, {})
    loaded = load_policy(tmp_path / "b")
    assert loaded.spec == policy.spec
    assert list(loaded.spec.obs_dims) == list(policy.spec.obs_dims)
    obs, noise = small_obs(policy, 4), policy.draw_noise(4, torch.Generator().manual_seed(0))
    bottleneck = policy.vib is not None
    assert torch.equal(
        loaded.act(obs, noise, bottleneck=bottleneck), policy.act(obs, noise, bottleneck=bottleneck)
    )
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a_policy_is_loaded_with_the_noise_that_is_asked_for(saved):
    loaded, less = load_policy(saved), load_policy(saved, noise_scale=0.5)
    obs, noise = small_obs(loaded, 4), loaded.draw_noise(4, torch.Generator().manual_seed(0))
    assert torch.equal(less.act(obs, noise), loaded.act(obs, 0.5 * noise))
    assert not torch.equal(less.act(obs, noise), loaded.act(obs, noise))


def test_same_policy_same_bytes(tmp_path, saved):
    save_policy(tmp_path / "again", small_policy(), {"seed": 0})
    assert durable.digest(saved) == durable.digest(tmp_path / "again")
    save_policy(tmp_path / "other", small_policy(seed=1), {"seed": 0})
    assert durable.digest(saved) != durable.digest(tmp_path / "other")


def test_golden_layout(saved):
    # Changing any of this breaks the bundles that people have: raise FORMAT_VERSION and read the
    # old form too.
    assert sorted(f.name for f in saved.iterdir()) == list(FILES)
    document = json.loads((saved / "bundle.json").read_text())
    assert sorted(document) == ["format_version", "kind", "normalizer", "provenance", "spec"]
    assert document["format_version"] == 1
    assert document["kind"] == "policy"
    assert document["spec"]["obs_dims"] == [["position", 3], ["gripper", 1]]
    assert sorted(document["spec"]) == ["action_dim", "obs_dims", "policy", "vib"]
    assert sorted(durable.read_tensors(saved / "policy.safetensors")) == sorted(
        [
            "encoder.body.0.bias",
            "encoder.body.0.weight",
            "encoder.body.2.bias",
            "encoder.body.2.weight",
            "encoder.norm.bias",
        ]
        + [
            "encoder.norm.weight",
            "normalizer.action_constant",
            "normalizer.action_half_range",
            "normalizer.action_index",
        ]
        + ["normalizer.action_offset", "normalizer.obs_gain", "normalizer.obs_offset"]
        + [f"velocity_net.body.{i}.{kind}" for i in (0, 2, 4) for kind in ("bias", "weight")]
        + [
            f"vib.{part}.{kind}"
            for part in ("encoder.0", "mean", "log_variance", "decoder.0", "decoder.2")
            for kind in ("bias", "weight")
        ]
    )


@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_is_noticed(saved, name):
    data = bytearray((saved / name).read_bytes())
    data[len(data) // 2] ^= 1
    (saved / name).write_bytes(data)
    with pytest.raises(DataError):
        load_policy(saved)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(DataError, match=name):
        load_policy(saved)


def test_newer_format_asks_for_an_upgrade(saved):
    edit(saved, lambda d: d.update(format_version=2))
    with pytest.raises(DataError, match="format 2") as caught:
        load_policy(saved)
    assert "upgrade zprl" in caught.value.remedy


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(format_version="1"),
        lambda d: d.pop("format_version"),
        lambda d: d.update(kind="steering"),
        lambda d: d.pop("spec"),
        lambda d: d.pop("normalizer"),
        lambda d: d.update(spec=[]),
        lambda d: d["spec"].update(obs_dims=[["position", "three"]]),
        lambda d: d["spec"].update(obs_dims=[["position", 3], ["gripper", 2]]),
        lambda d: d["spec"].update(obs_dims=[["position", 3], ["unknown", 1]]),
        lambda d: d["spec"].update(action_dim=0),
        lambda d: d["spec"].update(action_dim=6),
        lambda d: d["spec"]["policy"].update(velocity_net="os:system"),
        lambda d: d["spec"]["policy"].update(velocity_net="unet"),
        lambda d: d["spec"]["policy"].update(_target_="os.system"),
        lambda d: d["spec"]["policy"].update(mlp_hidden=[10**12]),  # would be terabytes
        lambda d: d["spec"]["policy"].update(mlp_hidden=[2**62, 2**62]),
        lambda d: d["spec"]["policy"].update(flow_steps=10**12),
        lambda d: d["spec"]["policy"].update(horizon=10**15),
        lambda d: d["spec"]["policy"].update(time_embedding_dim=10**12),
        lambda d: d["normalizer"].update(obs_dims=[["position", 10**12]]),
        lambda d: d["normalizer"].update(obs_dims=[["position", -1], ["gripper", 5]]),
    ],
)
def test_documents_that_lie_are_refused(saved, change):
    edit(saved, change)
    with pytest.raises(DataError):
        load_policy(saved)


def test_weights_that_do_not_fit_are_refused(saved):
    tensors = durable.read_tensors(saved / "policy.safetensors")
    for broken in (
        {**tensors, "extra": torch.zeros(1)},
        {k: v for k, v in tensors.items() if k != "vib.mean.bias"},
        {k: v for k, v in tensors.items() if not k.startswith("normalizer.")},
        {**tensors, "vib.mean.bias": torch.tensor([0.0, float("nan")])},
        {**tensors, "normalizer.action_index": torch.tensor([0, 1, 2, 99])},
        {**tensors, "normalizer.action_index": torch.tensor([0, 0, 1, 3])},
    ):
        durable.write_tensors(saved / "policy.safetensors", broken)
        reseal(saved)
        with pytest.raises(DataError):
            load_policy(saved)


def test_oversized_files_are_refused_before_they_are_read(saved, monkeypatch):
    monkeypatch.setattr(bundle, "MAX_TENSOR_BYTES", 100)
    with pytest.raises(DataError, match="larger than 100"):
        load_policy(saved)
    (saved / "policy.safetensors").write_bytes(struct.pack("<Q", 2**60))
    monkeypatch.undo()
    reseal(saved)
    with pytest.raises(DataError, match="safetensors"):
        load_policy(saved)


@pytest.mark.parametrize("line", ["../bundle.json", "/etc/passwd", "a b", ""])
def test_sums_may_name_plain_files_only(saved, line):
    with (saved / "SHA256SUMS").open("a") as file:
        file.write("0" * 64 + "  " + line + "\n")
    with pytest.raises(DataError, match="SHA256SUMS"):
        load_policy(saved)


def test_diverged_weights_are_not_written(tmp_path):
    policy = small_policy()
    torch.nn.init.constant_(policy.vib.mean.bias, float("inf"))
    with pytest.raises(DataError, match=r"vib\.mean\.bias"):
        save_policy(tmp_path / "b", policy, {})
    assert not list(tmp_path.iterdir())


def test_other_kinds_share_the_form(tmp_path):
    write_bundle(tmp_path / "s", "steering", {"base": "abc"}, {"w": torch.ones(2)})
    document, tensors = read_bundle(tmp_path / "s", "steering")
    assert document["base"] == "abc"
    assert tensors["w"].tolist() == [1, 1]
    with pytest.raises(DataError, match="steering"):
        load_policy(tmp_path / "s")


def test_a_folder_that_is_no_bundle_is_named(tmp_path):
    with pytest.raises(DataError, match="not a bundle"):
        load_policy(tmp_path / "nothing")
