"""Reading and cutting demonstrations against plain libraries, and the memory of the whole ingest.

    python benchmarks/ingest.py            # both
    python benchmarks/ingest.py speed      # ratios to plain h5py (and pyarrow, where the LeRobot reader is registered), in one run
    python benchmarks/ingest.py memory     # peak of a fresh process at 1, 10 and 100 times the recordings

*Reading*: our reader finds damage in a process of its own, checks every header and hands the arrays over; plain h5py reads
the same datasets of the same file as the same types.  Both sides touch every page of what they
read, the file is in the page cache, rounds alternate, processor time of both processes is counted
(Linux) and the ratio of medians printed.
*Windows*: batches of 256 training windows from the store against slices of the open HDF5 file.  *Memory*: largest
resident set of the process and of its reading child (Linux), from reading to the report.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, ".")  # for tests.lerobot_files
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from zprl import plugins
from zprl.data.episode import Episode
from zprl.data.ingest import choose, read_all
from zprl.data.inspection import report
from zprl.data.readers.robomimic import RobomimicReader
from zprl.data.readers.sandbox import PROBE
from zprl.data.sources import find_sources
from zprl.data.store import EpisodeStore, fit_normalizer
from zprl.data.validation import ValidationLimits
from zprl.data.windows import ChunkWindows
from zprl.data.writers.lerobot import LeRobotWriter
from zprl.data.writers.robomimic import RobomimicWriter

ROUNDS = 5
WIDTHS = {"robot0_joint_pos": 7, "robot0_joint_vel": 7, "robot0_gripper_qpos": 2, "object": 10}
CAMERA = "front_image"
PEAK_EPISODES, PEAK_FRAMES, PEAK_SIZE = 5, 100, 64
PER_FILE = 50
MIB = 2**20


def episode(number: int, frames: int, size: int | None) -> Episode:
    rng = np.random.default_rng(number)
    obs = {
        key: rng.standard_normal((frames, width), dtype=np.float32) for key, width in WIDTHS.items()
    }
    if size is not None:
        obs[CAMERA] = rng.integers(0, 256, (frames, size, size, 3), dtype=np.uint8)
    last = np.arange(frames) == frames - 1
    actions = rng.standard_normal((frames, 7), dtype=np.float32)
    return Episode(f"made/demo_{number}", obs, actions, last.astype(np.float32), last, success=True)


def write(path: Path, numbers: Iterable[int], frames: int, size: int | None) -> Path:
    with RobomimicWriter(path, {"env_name": "made", "env_type": 1, "env_kwargs": {}}) as writer:
        for number in numbers:
            writer.write(episode(number, frames, size))
    return path


def laid_out_plainly(path: Path) -> Path:
    """The same file as robomimic's own scripts write it: every dataset one run of numbers, neither cut nor compressed."""
    target = path.with_name("plain-" + path.name)
    with h5py.File(path) as old, h5py.File(target, "w") as new:

        def copy(name: str, node: h5py.Group | h5py.Dataset) -> None:
            made = (
                new.create_dataset(name, data=node[()])
                if isinstance(node, h5py.Dataset)
                else new.require_group(name)
            )
            made.attrs.update(node.attrs)

        old.visititems(copy)
    return target


def squeezed(path: Path) -> Path:
    """The same file with its images in chunks of one frame, compressed by gzip; smoothed first, for noise cannot be compressed."""
    target = path.with_name("squeezed.hdf5")
    with h5py.File(path) as old, h5py.File(target, "w") as new:
        old.copy("data", new)
        for demo in new["data"].values():
            images = np.repeat(np.repeat(demo["obs"][CAMERA][:, ::8, ::8], 8, axis=1), 8, axis=2)[
                :, :84, :84
            ]
            del demo["obs"][CAMERA]
            demo["obs"].create_dataset(
                CAMERA, data=images, chunks=(1, *images.shape[1:]), compression="gzip"
            )
    return target


def touch(arrays: Iterable[np.ndarray]) -> int:
    """Bytes of the arrays, every page of which is looked at."""
    total = 0
    for value in arrays:
        value.reshape(-1).view(np.uint8)[::4096].sum()
        total += value.nbytes
    return total


def plain(path: Path, keys: list[str]) -> int:
    total = 0
    with h5py.File(path) as file:
        for demo in file["data"].values():
            total += touch(demo["obs"][key][()] for key in keys)
            total += touch((demo["actions"][()], demo["rewards"][()], demo["dones"][()]))
    return total


def reader(path: Path, keys: list[str]) -> int:
    total = 0
    for item in RobomimicReader(obs_keys=keys).read(path):
        total += touch((*item.obs.values(), item.actions, item.rewards, item.dones))
    return total


def seconds(run: Callable[[], object]) -> float:
    """Processor time of this process and of its reading child, which work one after the other."""
    start = time.process_time() + child_seconds()
    run()
    return time.process_time() + child_seconds() - start


def child_seconds() -> float:
    fields = Path(f"/proc/{PROBE._started().pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def compare(
    name: str, theirs: Callable[[], object], ours: Callable[[], object], amount: float, unit: str
) -> None:
    theirs(), ours()
    found = [(seconds(theirs), seconds(ours)) for _ in range(ROUNDS)]
    plain_s, our_s = (statistics.median(column) for column in zip(*found, strict=True))
    rates = f"plain {amount / plain_s:9.0f} {unit}/s   zprl {amount / our_s:9.0f} {unit}/s"
    print(f"  {name:46s} {rates}   ratio {plain_s / our_s:.2f}", flush=True)


def speed(folder: Path) -> None:
    print("reading, against plain h5py")
    states, both = list(WIDTHS), [*WIDTHS, CAMERA]
    ours = {
        "states, 300 episodes of 200": (
            write(folder / "states.hdf5", range(300), 200, None),
            states,
        ),
        "states, 20 episodes of 20,000": (
            write(folder / "long.hdf5", range(20), 20_000, None),
            states,
        ),
        "images of 84 x 84": (write(folder / "images.hdf5", range(20), 200, 84), both),
    }
    files = {
        f"{name}, robomimic's": (laid_out_plainly(path), keys)
        for name, (path, keys) in ours.items()
    }
    files |= {f"{name}, our writer's": pair for name, pair in ours.items()}
    files["images, frame by frame in gzip"] = (squeezed(folder / "images.hdf5"), both)
    for name, (path, keys) in files.items():
        compare(
            name,
            lambda p=path, k=keys: plain(p, k),
            lambda p=path, k=keys: reader(p, k),
            plain(path, keys) / MIB,
            "MiB",
        )
    if "lerobot" in plugins.names("readers"):
        lerobot(folder)
    print("windows of 2 observations and 16 actions, in batches of 256")
    path, keys = ours["states, 300 episodes of 200"]
    result = read_all(
        find_sources(path, reader="robomimic", obs_keys=keys), limits=ValidationLimits()
    )
    EpisodeStore.write(folder / "store", result.good, fit_normalizer(result.good))
    windows = ChunkWindows(EpisodeStore.open(folder / "store"), keys, obs_steps=2, horizon=16)
    rng = np.random.default_rng(0)
    with h5py.File(path) as file:
        demos = list(file["data"].values())

        def theirs() -> None:
            for number, frame in zip(
                rng.integers(0, 300, 256), rng.integers(1, 184, 256), strict=True
            ):
                demo = demos[number]
                for key in keys:
                    demo["obs"][key][frame - 1 : frame + 1]
                demo["actions"][frame : frame + 16]

        steps = iter(range(10**6))
        compare("states", theirs, lambda: windows.batch(0, next(steps), 256), 256, "windows")


def lerobot(folder: Path) -> None:
    """The table of a LeRobot dataset against pyarrow on the same file, where our exporter's test double can write one."""
    try:
        import pyarrow.parquet as pq

        from tests.lerobot_files import write_lerobot
    except ImportError:
        print("  LeRobot: not measured (pyarrow or the writer of test datasets is missing)")
        return
    root = write_lerobot(folder / "lerobot", lengths=(400,) * 40, per_file=20)
    tables = sorted((root / "data").rglob("*.parquet"))

    def theirs() -> int:
        return sum(
            touch(_array(column) for column in pq.read_table(path).itercolumns()) for path in tables
        )

    def ours() -> int:
        items = plugins.load("readers", "lerobot")().read(root)
        return sum(
            touch((*item.obs.values(), item.actions)) for item in items if isinstance(item, Episode)
        )

    frames = sum(pq.read_metadata(path).num_rows for path in tables)
    compare("LeRobot, table alone, against pyarrow", theirs, ours, frames, "frames")

    dataset = folder / "video"
    with LeRobotWriter(dataset, rate_hz=20, task="made", robot="none") as writer:
        for number in range(10):
            writer.write(episode(number, 100, 84))
    videos = sorted((dataset / "videos").rglob("*.mp4"))

    def decoded() -> int:
        import av

        total = sum(
            touch(_array(column) for column in pq.read_table(path).itercolumns())
            for path in sorted((dataset / "data").rglob("*.parquet"))
        )
        for video in videos:
            with av.open(video) as opened:
                total += sum(
                    touch([frame.to_ndarray(format="rgb24")]) for frame in opened.decode(video=0)
                )
        return total

    def episodes() -> int:
        items = plugins.load("readers", "lerobot")(obs_keys=[*WIDTHS, CAMERA]).read(dataset)
        return sum(
            touch((*item.obs.values(), item.actions)) for item in items if isinstance(item, Episode)
        )

    compare("LeRobot with video, against pyarrow and PyAV", decoded, episodes, 1000, "frames")


def _array(column: Any) -> np.ndarray:
    """A column of numbers, or of lists of numbers one after the other."""
    whole = column.combine_chunks()
    return (
        whole.flatten() if hasattr(whole, "flatten") and whole.type.num_fields else whole
    ).to_numpy(zero_copy_only=False)


def peak_kib(process: int) -> int:
    """Largest resident set so far; ``ru_maxrss`` would count what the process that started it held."""
    return int(Path(f"/proc/{process}/status").read_text().partition("VmHWM:")[2].split()[0])


def ingest(folder: Path) -> None:
    """What the stage does, in this process; prints the peak."""
    keys = [*WIDTHS, CAMERA]
    idle = peak_kib(os.getpid())
    start = time.perf_counter()
    result = read_all(
        find_sources(folder / "data", reader="robomimic", obs_keys=keys), limits=ValidationLimits()
    )
    used = choose(result.good, exclude_failures=False, max_episodes=None)
    EpisodeStore.write(folder / "episodes", used, fit_normalizer(used))
    report.write(folder / "report", result, used)
    wall = time.perf_counter() - start
    peak, child = peak_kib(os.getpid()), peak_kib(PROBE._started().pid)
    print(
        json.dumps(
            {"episodes": len(used), "idle": idle, "peak": peak, "child": child, "wall": wall}
        )
    )


def memory(folder: Path) -> None:
    print(
        "memory of the whole ingest, MiB (resident, largest; the import of torch and all the rest alone: idle)"
    )
    print("  size  episodes  recordings   idle   peak   reading child   seconds")
    for times in (1, 10, 100):
        place = folder / f"x{times}"
        total = times * PEAK_EPISODES
        for first in range(0, total, PER_FILE):
            write(
                place / "data" / f"{first:06d}.hdf5",
                range(first, min(first + PER_FILE, total)),
                PEAK_FRAMES,
                PEAK_SIZE,
            )
        size = sum(path.stat().st_size for path in (place / "data").iterdir())
        done = subprocess.run(
            [sys.executable, __file__, "one", str(place)],
            capture_output=True,
            text=True,
            check=True,
        )
        found = json.loads(done.stdout.splitlines()[-1])
        idle, peak, child = (found[name] / 1024 for name in ("idle", "peak", "child"))
        row = f"  {times:3d}x {found['episodes']:9d} {size / MIB:11.0f} {idle:6.0f} {peak:6.0f} {child:15.0f} {found['wall']:9.1f}"
        print(row, flush=True)


def main() -> None:
    if sys.argv[1:2] == ["one"]:
        ingest(Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory(prefix="zprl-ingest-") as folder:
        for name, part in (("speed", speed), ("memory", memory)):
            if name in (sys.argv[1:] or [name]):
                part(Path(folder))


if __name__ == "__main__":
    main()
