r"""Opens with the real LeRobot what is written here; not collected by pytest, because LeRobot wants another environment.

How to run it, in the project's folder (the second environment borrows torch and all else from the first)::

    .venv/bin/python -m tests.peers.made /tmp/peers/made uv venv --python .venv/bin/python
    /tmp/peers/lerobot echo $PWD/.venv/lib/python3.12/site-packages >
    /tmp/peers/lerobot/lib/python3.12/site-packages/zz_main.pth uv pip install --python
    /tmp/peers/lerobot/bin/python --no-deps lerobot==0.6.1 "numpy<2.3" "pandas<3" "datasets>=4.8,<5"
    "av>=15,<16" \
        "draccus<0.12" "huggingface-hub<2" torchvision==0.26.0 torchcodec==0.11.0 jsonlines
        termcolor einops gymnasium deepdiff cachebox \ orderly-set toml typing-inspect
        mypy-extensions mergedeep pyyaml-include xxhash dill multiprocess tqdm httpx hf-xet
        cloudpickle \ farama-notifications
    HF_HUB_OFFLINE=1 /tmp/peers/lerobot/bin/python tests/peers/lerobot_opens_it.py /tmp/peers/made

It ends with ``all right``, or with the first difference.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from lerobot.configs.types import FeatureType
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy

try:
    from lerobot.utils.feature_utils import dataset_to_policy_features
except ImportError:
    from lerobot.datasets.feature_utils import dataset_to_policy_features

RATE = 20
LENGTHS = (40, 41, 42, 43)
VIDEO_ERROR = 4.0
"""Mean difference of a video's frame from what was recorded, in levels of 256."""


def check(folder: Path, expected: dict[str, np.ndarray], images: str) -> None:
    """One dataset: counts, every frame, windows across an episode's end, labels, statistics."""
    data = LeRobotDataset("made/here", root=folder / images, video_backend="pyav")
    assert len(data) == sum(LENGTHS), len(data)
    assert (data.num_episodes, data.fps, data.meta.robot_type) == (4, RATE, "franka")
    worst = {"wrist_image": 0.0, "front": 0.0}
    index = 0
    for episode, length in enumerate(LENGTHS):
        for frame in range(length):
            item = data[index]
            assert (int(item["episode_index"]), int(item["frame_index"]), int(item["index"])) == (
                episode,
                frame,
                index,
            )
            assert item["task"] == "Lift the cube."
            np.testing.assert_array_equal(
                item["observation.state"], expected[f"{episode}/state"][frame]
            )
            np.testing.assert_array_equal(item["action"], expected[f"{episode}/actions"][frame])
            assert float(item["next.reward"]) == expected[f"{episode}/rewards"][frame]
            assert bool(item["next.done"]) == (frame == length - 1)
            assert bool(item["next.success"]) == (frame == length - 1 and episode != 3)
            for key in worst:
                seen = item[f"observation.images.{key}"].numpy().transpose(1, 2, 0) * 255
                error = float(np.abs(seen - expected[f"{episode}/{key}"][frame]).mean())
                worst[key] = max(worst[key], error)
            index += 1
    assert max(worst.values()) <= (VIDEO_ERROR if images == "video" else 1e-4), worst
    rows = data.meta.episodes
    assert list(rows["success"]) == [True, True, True, False]
    assert list(rows["quality"]) == ["better", "okay", "worse", "better"]
    np.testing.assert_allclose(
        data.meta.stats["action"]["mean"],
        np.concatenate([expected[f"{i}/actions"] for i in range(4)]).mean(0),
        rtol=1e-4,
    )
    assert data.meta.stats["observation.images.front"]["mean"].shape == (3, 1, 1)
    assert data.meta.filter_episodes(lambda row: row["success"]) == [0, 1, 2]

    steps = [k / RATE for k in range(8)]
    pairs = [-1 / RATE, 0.0]
    windows = LeRobotDataset(
        "made/here",
        root=folder / images,
        video_backend="pyav",
        delta_timestamps={
            "action": steps,
            "observation.state": pairs,
            "observation.images.front": pairs,
        },
    )
    item = windows[37]  # the chunk ends after the episode's last frame, 39
    np.testing.assert_array_equal(
        item["action"], expected["0/actions"][[37, 38, 39, 39, 39, 39, 39, 39]]
    )
    assert item["action_is_pad"].tolist() == [False] * 3 + [True] * 5
    np.testing.assert_array_equal(item["observation.state"], expected["0/state"][36:38])
    for seen, frame in zip(item["observation.images.front"], (36, 37), strict=True):
        error = np.abs(
            seen.numpy().transpose(1, 2, 0) * 255 - expected["0/front"][frame].astype(float)
        ).mean()
        assert error <= VIDEO_ERROR, error
    some = LeRobotDataset("made/here", root=folder / images, episodes=[2], video_backend="pyav")
    assert len(some) == 42
    np.testing.assert_array_equal(some[0]["action"], expected["2/actions"][0])
    print(
        f"{images}: {len(data)} frames, {data.num_episodes} episodes, worst mean error of an image {worst} levels"
    )


def train(folder: Path) -> None:
    """LeRobot's own ACT takes the features as they are, and its loss falls on one batch."""
    torch.manual_seed(0)
    meta = LeRobotDataset("made/here", root=folder / "video", video_backend="pyav").meta
    features = dataset_to_policy_features(meta.features)
    outputs = {
        key: feature for key, feature in features.items() if feature.type is FeatureType.ACTION
    }
    inputs = {key: features[key] for key in ("observation.state", "observation.images.wrist_image")}
    config = ACTConfig(
        input_features=inputs,
        output_features=outputs,
        chunk_size=8,
        n_action_steps=8,
        dim_model=64,
        n_heads=2,
        dim_feedforward=64,
        n_encoder_layers=1,
        n_vae_encoder_layers=1,
        latent_dim=4,
        pretrained_backbone_weights=None,
        device="cpu",
        push_to_hub=False,
    )
    policy = ACTPolicy(config)
    data = LeRobotDataset(
        "made/here",
        root=folder / "video",
        video_backend="pyav",
        delta_timestamps={"action": [k / RATE for k in range(8)]},
    )
    batch = next(iter(torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)))
    adam = torch.optim.Adam(policy.parameters(), 1e-3)
    losses = []
    for _ in range(10):
        loss, _ = policy.forward(batch)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0], losses
    print(f"ACT: loss {losses[0]:.2f} -> {losses[-1]:.2f} in {len(losses)} steps")


if __name__ == "__main__":
    made = Path(sys.argv[1])
    arrays = dict(np.load(made / "expected.npz"))
    for store in ("video", "png"):
        check(made, arrays, store)
    train(made)
    print("all right")
