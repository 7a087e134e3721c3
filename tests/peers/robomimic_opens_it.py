"""Opens with the real robomimic what is written here; not collected by pytest, because robomimic wants an environment of its own.

How to run it, in the project's folder (the second environment borrows torch and all else from the first)::

    .venv/bin/python -m tests.peers.made /tmp/peers/made uv venv --python .venv/bin/python
    /tmp/peers/robomimic echo $PWD/.venv/lib/python3.12/site-packages >
    /tmp/peers/robomimic/lib/python3.12/site-packages/zz_main.pth uv pip install --python
    /tmp/peers/robomimic/bin/python --no-deps robomimic==0.3.0 torchvision==0.26.0 termcolor tqdm
    tensorboard \
        tensorboardX imageio
    /tmp/peers/robomimic/bin/python tests/peers/robomimic_opens_it.py /tmp/peers/made

It ends with ``all right``, or with the first difference.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from robomimic.utils import file_utils, obs_utils
from robomimic.utils.dataset import SequenceDataset

LENGTHS = (40, 41, 42, 43)
STATES = (
    "robot0_eef_pos",
    "robot0_eef_quat",
    "robot0_gripper_qpos",
    "robot0_gripper_command",
    "object",
)


def main(folder: Path) -> None:
    """Sequences of two frames and eight actions, with and without the cache in memory, and the subsets by grade."""
    expected = dict(np.load(folder / "expected.npz"))
    path = str(folder / "again.hdf5")
    meta = file_utils.get_env_metadata_from_dataset(path)
    assert meta["env_kwargs"]["control_freq"] == 20, meta
    obs_utils.initialize_obs_utils_with_obs_specs(
        [{"obs": {"low_dim": list(STATES), "rgb": ["wrist_image"]}}]
    )
    shapes = file_utils.get_shape_metadata_from_dataset(path, all_obs_keys=[*STATES, "wrist_image"])
    assert shapes["ac_dim"] == 10, shapes
    for cache in (None, "low_dim"):
        data = SequenceDataset(
            path,
            obs_keys=(*STATES, "wrist_image") if cache is None else STATES,
            dataset_keys=("actions", "rewards", "dones"),
            frame_stack=2,
            seq_length=8,
            pad_frame_stack=True,
            pad_seq_length=True,
            hdf5_cache_mode=cache,
            hdf5_use_swmr=False,
            load_next_obs=False,
        )
        assert len(data) == sum(LENGTHS), len(data)
        item = data[5]
        for key in data.obs_keys:
            np.testing.assert_array_equal(item["obs"][key], expected[f"0/{key}"][4:13])
        np.testing.assert_array_equal(item["actions"], expected["0/actions"][4:13])
        np.testing.assert_array_equal(data[39]["rewards"][-1], expected["0/rewards"][39])
        print(f"cache {cache}: {len(data)} sequences of {data.n_demos} demos")
    better = SequenceDataset(
        path,
        obs_keys=STATES,
        dataset_keys=("actions",),
        filter_by_attribute="better",
        hdf5_cache_mode=None,
        load_next_obs=False,
    )
    assert sorted(better.demos) == ["demo_0", "demo_3"], better.demos
    print("all right")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
