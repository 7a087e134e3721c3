"""LeRobot datasets: what is read as what, by hand, and what is refused and how."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.lerobot_files import (
    NAMES,
    SIZE,
    drop,
    grey,
    png,
    write_lerobot,
    write_table,
    write_video,
)
from zprl.data import sources
from zprl.data.episode import Episode
from zprl.data.findings import Finding
from zprl.data.ingest import read_all
from zprl.data.readers import arrow_columns, parquet_guard, video
from zprl.data.readers.hdf5_guard import RefusedError
from zprl.data.readers.lerobot import LeRobotReader
from zprl.data.readers.lerobot_keys import split_names
from zprl.data.readers.lerobot_meta import fill
from zprl.data.validation import ValidationLimits
from zprl.data.writers.lerobot import LeRobotWriter

VERSIONS = ("v2.1", "v3.0")
LOST = ("next.reward", "next.done")
FIRST_DATA = {
    "v2.1": "data/chunk-000/episode_000000.parquet",
    "v3.0": "data/chunk-000/file-000.parquet",
}
FIRST_VIDEO = {
    "v2.1": "videos/chunk-000/observation.images.video/episode_000000.mp4",
    "v3.0": "videos/observation.images.video/chunk-000/file-000.mp4",
}
OF_FIRST_FILE = {"v2.1": [0], "v3.0": [0, 1]}
"""Numbers of the episodes in it."""


def read(root: Path, *keys: str) -> tuple[list[Episode], list[Finding]]:
    items = list(LeRobotReader(obs_keys=keys or None).read(root))
    return [item for item in items if isinstance(item, Episode)], [
        item for item in items if isinstance(item, Finding)
    ]


def errors(root: Path, *keys: str) -> list[tuple[str, str | None]]:
    return [
        (finding.code, finding.episode)
        for finding in read(root, *keys)[1]
        if finding.severity == "error"
    ]


def edit_info(root: Path, **values: Any) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("version", VERSIONS)
def test_values(version: str, tmp_path: Path) -> None:
    good, findings = read(write_lerobot(tmp_path / "lift", version))
    assert not findings
    assert [episode.name for episode in good] == [
        "lift/episode_0",
        "lift/episode_1",
        "lift/episode_2",
    ]
    assert [episode.length for episode in good] == [6, 7, 8]
    second = good[1]
    assert list(second.obs) == ["pos", "grip", "force"]
    np.testing.assert_array_equal(
        second.obs["pos"], [[1, 0], [1, 1], [1, 2], [1, 3], [1, 4], [1, 5], [1, 6]]
    )
    np.testing.assert_array_equal(second.obs["grip"], [[0.5]] * 7)
    np.testing.assert_array_equal(second.obs["force"], [[10], [11], [12], [13], [14], [15], [16]])
    np.testing.assert_array_equal(
        second.actions,
        np.float32([[0, 1], [0.1, 1], [0.2, 1], [0.3, 1], [0.4, 1], [0.5, 1], [0.6, 1]]),
    )
    np.testing.assert_array_equal(good[0].rewards, [0, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(second.rewards, [0] * 7)
    assert second.dones.tolist() == [False] * 6 + [True]
    assert [episode.success for episode in good] == [True, False, True]
    assert {episode.quality for episode in good} == {"unknown"}
    assert {episode.rate_hz for episode in good} == {10.0}
    assert all(
        value.dtype == np.float32
        for value in (*second.obs.values(), second.actions, second.rewards)
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_images_come_when_they_are_asked_for(version: str, tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "lift", version, still=True, video=True)
    assert not any(key.startswith("images") for key in read(root)[0][0].obs)
    good, findings = read(root, "images.video", "grip", "images.still")
    assert not findings
    for number, episode in enumerate(good):
        assert list(episode.obs) == ["images.video", "grip", "images.still"]
        levels = [grey(number, frame) for frame in range(episode.length)]
        for key, tolerance in (("images.still", 0), ("images.video", 2)):
            assert episode.obs[key].shape == (episode.length, *SIZE, 3)
            assert episode.obs[key].dtype == np.uint8
            # Neighbouring frames differ by 6 levels: a video that is off by one frame is noticed.
            middle = episode.obs[key][:, SIZE[0] // 2, SIZE[1] // 2].astype(int)
            assert np.abs(middle - np.array(levels)[:, None]).max() <= tolerance


@pytest.mark.parametrize(
    "names",
    [
        None,
        ["x", "y", "grip"],
        ["pos.1", "pos.0", "grip.0"],
        ["pos.0", "grip.0", "pos.1"],
        ["pos.0", "pos.1"],
        ["pos.0", "pos.1", "../x.0"],
        ["force.0", "force.1", "grip.0"],
        {"motors": NAMES},
    ],
    ids=["none", "plain", "order", "torn", "too-few", "unsafe", "taken", "nested"],
)
def test_a_state_with_other_names_stays_whole(names: Any, tmp_path: Path) -> None:
    good, findings = read(write_lerobot(tmp_path / "lift", names=names))
    assert not findings
    assert list(good[0].obs) == ["state", "force"]
    np.testing.assert_array_equal(good[0].obs["state"][2], [0, 2, 0.5])


def test_split_names() -> None:
    assert split_names(["arm.q.0", "arm.q.1", "b.0"]) == {"arm.q": slice(0, 2), "b": slice(2, 3)}
    assert (
        split_names(["a.0", "a.01"])
        == split_names(["a.1"])
        == split_names(["a.0", "a.0"])
        == split_names([])
        == {}
    )


SUCCESS = {
    "row": (
        {"success": [False, True, None]},
        None,
        [False, True, True],
        "`success` in meta/episodes",
    ),
    "flag": (None, "flag", [False, False, True], "column `next.success`"),
    "reward": (None, None, [True, False, True], "column `next.reward`"),
    "none": (None, "none", [True, True, True], "not labelled: every episode counts as a success"),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("rule", SUCCESS)
def test_success(version: str, rule: str, tmp_path: Path) -> None:
    about, change, expected, said = SUCCESS[rule]

    def flags(number: int, columns: dict[str, np.ndarray]) -> None:
        columns["next.success"] = (np.arange(len(columns["index"])) == 3) & (number == 2)

    changed = {"flag": flags, "none": drop(*LOST), None: None}[change]
    root = write_lerobot(tmp_path / "lift", version, about=about, columns=changed)
    good, findings = read(root)
    assert [episode.success for episode in good] == expected
    assert LeRobotReader().facts(root)["success"] == said
    if rule == "none":
        (finding,) = findings
        assert (finding.code, finding.severity, finding.episode) == ("D02", "warning", None)
        assert "every episode counts" in finding.message
        assert good[0].rewards.tolist() == good[0].dones.tolist() == [0, 0, 0, 0, 0, 1]
    else:
        assert not findings


@pytest.mark.parametrize("version", VERSIONS)
def test_quality(version: str, tmp_path: Path) -> None:
    root = write_lerobot(
        tmp_path / "lift", version, about={"quality": ["better", "splendid", "worse"]}
    )
    assert [episode.quality for episode in read(root)[0]] == ["better", "unknown", "worse"]


@pytest.mark.parametrize("version", VERSIONS)
def test_facts(version: str, tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "lift", version, still=True, video=True)
    assert LeRobotReader().facts(root) == {
        "format": f"LeRobot {version}",
        "rate": "10 Hz",
        "robot": "so101",
        "images": "still, video",
        "success": "column `next.reward`",
        "tasks": "Lift the cube.",
    }
    assert LeRobotReader().facts(tmp_path / "nothing") == {}
    (root / "meta" / ("tasks.jsonl" if version == "v2.1" else "tasks.parquet")).write_bytes(
        b"PAR1 nonsense"
    )
    assert LeRobotReader().facts(root)["format"] == f"LeRobot {version}"


def test_what_our_writer_wrote(tmp_path: Path) -> None:
    """Keys, labels and numbers come back bit for bit."""
    draw = np.random.default_rng(0)
    last = np.arange(5) == 4
    written = [
        Episode(
            name=f"made/demo_{number}",
            obs={
                "pos": draw.normal(size=(5, 3)).astype(np.float32),
                "grip": draw.normal(size=(5, 1)).astype(np.float32),
            },
            actions=draw.normal(size=(5, 1)).astype(np.float32),
            rewards=(last & success).astype(np.float32),
            dones=last,
            success=success,
            quality=quality,
            rate_hz=20.0,
        )
        for number, (success, quality) in enumerate([(True, "okay"), (False, "unknown")])
    ]
    with LeRobotWriter(tmp_path / "out", rate_hz=20, task="Lift.", robot="franka") as writer:
        for episode in written:
            writer.write(episode)
    good, findings = read(tmp_path / "out")
    assert not findings
    assert [episode.content_hash() for episode in good] == [
        episode.content_hash() for episode in written
    ]
    assert [(e.success, e.quality, e.rate_hz) for e in good] == [
        (True, "okay", 20.0),
        (False, "unknown", 20.0),
    ]
    assert [e.rewards.tolist() for e in good] == [e.rewards.tolist() for e in written]


def test_a_long_file_is_read_in_batches(tmp_path: Path) -> None:
    """Episodes begin and end within batches and across them."""
    lengths = [parquet_guard.BATCH_ROWS - 1, 2, 2 * parquet_guard.BATCH_ROWS, 1, 5]
    good, findings = read(write_lerobot(tmp_path / "lift", lengths=lengths, per_file=5))
    assert not findings
    assert [episode.length for episode in good] == lengths
    for number, episode in enumerate(good):
        np.testing.assert_array_equal(episode.obs["pos"][:, 1], np.arange(lengths[number]))
        assert set(episode.obs["pos"][:, 0]) == {number}
    reader = LeRobotReader()
    reader.first = 2
    assert [item.name for item in reader.read(tmp_path / "lift")] == [
        "lift/episode_0",
        "lift/episode_1",
    ]


def test_found_among_other_sources(tmp_path: Path) -> None:
    """``auto`` takes the folder as one source, and what is ingested is what was read."""
    write_lerobot(tmp_path / "demos/lift")
    (source,) = sources.find_sources(tmp_path / "demos")
    assert (source.reader.name, source.path) == ("lerobot", tmp_path / "demos/lift")
    result = read_all([source], limits=ValidationLimits())
    assert [episode.name for episode in result.good] == [
        "lift/episode_0",
        "lift/episode_1",
        "lift/episode_2",
    ]
    assert result.facts[source.path.as_posix()]["format"] == "LeRobot v3.0"


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v2.0", "v1.6", "v4.0", None, 3])
def test_other_versions(version: Any, tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "lift", info={"codebase_version": version})
    (finding,) = read(root)[1]
    assert finding.code == "D20"
    assert "LeRobot's own converters" in finding.remedy


@pytest.mark.parametrize(
    ("info", "code"),
    [
        ({"fps": 0}, "D05"),
        ({"fps": float("nan")}, "D05"),
        ({"fps": True}, "D05"),
        ({"features": None}, "D02"),
        ({"features": {"observation.state": 1}}, "D02"),
        ({"features": {"../x": {"dtype": "float32", "shape": [1]}}}, "D18"),
        ({"features": {}}, "D02"),
        ({"data_path": "../{chunk_index:03d}/file-{file_index:03d}.parquet"}, "D18"),
        ({"data_path": "/etc/passwd"}, "D18"),
        ({"data_path": "data/{chunk_index.__class__}"}, "D18"),
        ({"data_path": "data/{chunk_index:0999999999d}"}, "D18"),
        ({"data_path": "data/{secret}"}, "D18"),
        ({"data_path": None}, "D18"),
    ],
)
def test_a_bad_info(info: dict[str, Any], code: str, tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "lift", info=info)
    found = read(root)[1]
    assert {finding.code for finding in found} == {code}
    assert all(finding.file == root.as_posix() for finding in found)


def test_templates() -> None:
    assert (
        fill("a/{video_key}/e_{episode_index:06d}.mp4", video_key="c.d", episode_index=7)
        == "a/c.d/e_000007.mp4"
    )
    for template in ("{0}", "{x!r}", "{x:>9}", "{x[0]}", "{", "}", "{y}"):
        with pytest.raises(RefusedError):
            fill(template, x=1)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_video_path_that_leaves_the_folder(version: str, tmp_path: Path) -> None:
    write_video(tmp_path / "video.mp4", [10] * 8)
    root = write_lerobot(
        tmp_path / "lift", version, video=True, info={"video_path": "../video.mp4"}
    )
    assert {code for code, _ in errors(root, "images.video")} == {"D18"}
    assert not errors(root, "grip")


@pytest.mark.parametrize("version", VERSIONS)
def test_links_out_of_the_folder(version: str, tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "lift", version)
    path = root / FIRST_DATA[version]
    path.rename(tmp_path / "elsewhere.parquet")
    path.symlink_to(tmp_path / "elsewhere.parquet")
    good, findings = read(root)
    assert [finding.code for finding in findings] == ["D16"] * len(OF_FIRST_FILE[version])
    assert len(good) == 3 - len(findings)
    # Within the folder, links are as good as files.
    path.unlink()
    (tmp_path / "elsewhere.parquet").rename(root / "moved.parquet")
    path.symlink_to(root / "moved.parquet")
    assert not read(root)[1]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "pipe"])
def test_damage_stays_with_its_file(version: str, damage: str, tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "lift", version)
    path = root / FIRST_DATA[version]
    whole = path.read_bytes()
    path.unlink()
    if damage == "pipe":  # opening it would wait for ever
        os.mkfifo(path)
    elif damage != "missing":
        path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    good, findings = read(root)
    lost = OF_FIRST_FILE[version]
    code = "D02" if damage in ("missing", "pipe") else "D01"
    assert [(finding.code, finding.episode) for finding in findings] == [
        (code, f"lift/episode_{number}") for number in lost
    ]
    assert FIRST_DATA[version] in findings[0].message
    assert [episode.name for episode in good] == [
        f"lift/episode_{number}" for number in range(3) if number not in lost
    ]


def test_damaged_metadata(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "a")
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    assert errors(root) == [("D01", None)]
    path.unlink()
    assert errors(root) == [("D02", None)]
    root = write_lerobot(tmp_path / "b", "v2.1")
    (root / "meta/episodes.jsonl").write_text(
        '{"episode_index": 0, "length": 6}\n{"episode_index": 1, "len'
    )
    assert errors(root) == [("D01", None)]
    for row in (
        '{"episode_index": -1, "length": 6}',
        '{"episode_index": 0, "length": true}',
        '{"episode_index": 0, "length": 1e9}',
    ):
        (root / "meta/episodes.jsonl").write_text(row)
        assert errors(root) == [("D05", None)]
    (root / "meta/episodes.jsonl").write_text('{"episode_index": 0, "length": 6}\n' * 2)
    assert errors(root) == [("D18", None)]
    (root / "meta/episodes.jsonl").write_text("[" * 100_000)
    assert errors(root) == [("D01", None)]


@pytest.mark.parametrize("version", VERSIONS)
def test_counts(version: str, tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "lift", version, info={"total_episodes": 4, "total_frames": 99})
    found = read(root)[1]
    assert [(finding.code, finding.severity, finding.episode) for finding in found] == [
        ("D03", "warning", None)
    ] * 2
    assert "says 99 frames, meta/episodes lists 21" in found[1].message


def test_frames_against_metadata(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "lift", per_file=3)
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[0]["length"] = 5
    rows[1]["episode_index"] = 7
    write_table(path, pa.Table.from_pylist(rows))
    edit_info(root, total_frames=20)
    good, findings = read(root)
    assert [episode.name for episode in good] == ["lift/episode_2"]
    assert [(finding.code, finding.severity, finding.episode) for finding in findings] == [
        ("D03", "error", "lift/episode_0"),
        ("D03", "error", "lift/episode_7"),
        ("D03", "warning", None),
    ]


@pytest.mark.parametrize(
    ("times", "frame"),
    [
        ([0, 0.1, 0.1, 0.3, 0.4, 0.5], 2),
        ([0, 0.1, 0.2, 0.36, 0.4, 0.5], 3),
        ([0, 0.1, 0.2, float("nan"), 0.4, 0.5], 3),
    ],
    ids=["standing", "late", "nan"],
)
def test_timestamps(times: list[float], frame: int, tmp_path: Path) -> None:
    def change(number: int, columns: dict[str, np.ndarray]) -> None:
        if number == 0:
            columns["timestamp"] = np.float32(times)

    good, (finding,) = read(write_lerobot(tmp_path / "lift", columns=change))
    assert (finding.code, finding.severity, finding.episode, finding.frame) == (
        "D09",
        "error",
        "lift/episode_0",
        frame,
    )
    assert len(good) == 2


def test_small_jitter_and_late_hours_are_no_defect(tmp_path: Path) -> None:
    def change(number: int, columns: dict[str, np.ndarray]) -> None:
        columns["timestamp"] = (
            columns["frame_index"] / 10 + 3600 * number + 0.049 * (columns["frame_index"] % 2)
        ).astype(np.float32)

    assert not read(write_lerobot(tmp_path / "lift", columns=change))[1]


def test_keys_that_are_missing(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "lift")
    (finding,) = read(root, "gripp")[1]
    assert finding.code == "D22"
    assert finding.remedy == "did you mean 'grip'?"
    assert errors(write_lerobot(tmp_path / "blind", columns=drop("action"))) == [("D02", None)]


def test_columns_of_other_types(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "lift", "v2.1")
    path = root / FIRST_DATA["v2.1"]
    table = pq.read_table(path)
    place = table.column_names.index("observation.state")
    for column, code in (
        (pa.array([[1.0, 2.0, 3.0]] * 5 + [[1.0, 2.0]]), "D05"),
        (pa.array([[1.0, 2.0, 3.0]] * 5 + [None]), "D05"),
        (pa.array([[1.0, 2.0, None]] * 6), "D05"),
        (pa.array([[1.0, 2.0]] * 6), "D05"),
        (pa.array(["text"] * 6), "D05"),
        (pa.array([{"x": 1}] * 6), "D05"),
    ):
        pq.write_table(table.set_column(place, "observation.state", column), path)
        assert errors(root) == [(code, "lift/episode_0")]
    pq.write_table(table.drop_columns("observation.state"), path)
    assert errors(root) == [("D02", "lift/episode_0")]


def test_torn_episodes(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "lift", per_file=3)
    path = root / FIRST_DATA["v3.0"]
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table.slice(3), table.slice(0, 3)]), path)
    found = errors(root)
    assert ("D05", "lift/episode_2") in found or ("D03", "lift/episode_0") in found
    assert len(read(root)[0]) < 3


# -- hostile ---------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    """A whole number in Thrift's compact protocol (zigzag)."""
    value, out = 2 * value, bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


@pytest.mark.parametrize("rows", [2**40, 2**62, 10**7 + 1])
def test_a_footer_that_declares_terabytes(rows: int, tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "lift", "v2.1", lengths=[4321, 5])
    path = root / FIRST_DATA["v2.1"]
    data = path.read_bytes()
    size = int.from_bytes(data[-8:-4], "little")
    body, footer = data[: -8 - size], data[-8 - size : -8]
    assert footer.count(varint(4321)) > 5
    footer = footer.replace(varint(4321), varint(rows))
    path.write_bytes(body + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    good, (finding,) = read(root)
    assert finding.episode == "lift/episode_0"
    assert finding.code == ("D01" if rows < 2**40 else "D17")
    assert f"declares {rows} rows" in finding.message
    assert [episode.length for episode in good] == [5]


def test_metadata_beyond_the_limits(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "lift", "v2.1")
    with (root / "meta/episodes.jsonl").open("r+b") as file:
        file.truncate(2**40)  # sparse
    assert errors(root) == [("D17", None)]
    with (root / "meta/info.json").open("r+b") as file:
        file.truncate(2**40)
    assert errors(root) == [("D17", None)]


def patch_size(path: Path, width: int, height: int) -> None:
    """Declare another size in the MP4's headers: track header and sample entry."""
    data = bytearray(path.read_bytes())
    entry = data.index(b"avc1", data.index(b"stsd"))
    data[entry + 28 : entry + 32] = width.to_bytes(2, "big") + height.to_bytes(2, "big")
    header = data.index(b"tkhd")
    data[header + 80 : header + 88] = (width << 16).to_bytes(4, "big") + (height << 16).to_bytes(
        4, "big"
    )
    path.write_bytes(data)


def test_a_video_that_declares_huge_frames(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "lift", "v2.1", video=True)
    write_video(
        root / FIRST_VIDEO["v2.1"], [10], size=(2400, 4200)
    )  # 10 million pixels in some kilobytes
    good, (finding,) = read(root, "images.video")
    assert (finding.code, finding.episode) == ("D17", "lift/episode_0")
    assert len(good) == 2
    write_video(root / FIRST_VIDEO["v2.1"], [10] * 6)
    patch_size(root / FIRST_VIDEO["v2.1"], 65535, 65535)
    # FFmpeg believes the stream's own header, which says 64 x 48, or refuses; neither takes memory.
    assert errors(root, "images.video") in (
        [],
        [("D17", "lift/episode_0")],
        [("D01", "lift/episode_0")],
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_a_cut_video(version: str, tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "lift", version, video=True)
    path = root / FIRST_VIDEO[version]
    whole = path.read_bytes()
    write_video(path, [grey(0, frame) for frame in range(4)])
    found = errors(root, "images.video", "grip")
    assert found == [
        ("D03", f"lift/episode_{number}") for number in ([0] if version == "v2.1" else [0, 1, 2])
    ]
    assert "0.400 s; 2 of 6 are missing" in read(root, "images.video")[1][0].message
    path.write_bytes(whole[: len(whole) // 3])
    assert {code for code, _ in errors(root, "images.video")} == {"D01"}
    assert not errors(root, "grip")
    path.unlink()
    assert {code for code, _ in errors(root, "images.video")} == {"D02"}


def test_a_playlist_is_not_followed(tmp_path: Path) -> None:
    """Left to guess, FFmpeg would open what the file names."""
    root = write_lerobot(tmp_path / "lift", "v2.1", video=True)
    secret = tmp_path / "secret.mp4"
    write_video(secret, [grey(0, frame) for frame in range(6)])
    for text in (
        f"#EXTM3U\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {secret}\n",
    ):
        (root / FIRST_VIDEO["v2.1"]).write_text(text)
        assert errors(root, "images.video") == [("D01", "lift/episode_0")]


def test_an_unknown_codec(tmp_path: Path) -> None:
    import av

    root = write_lerobot(tmp_path / "lift", "v2.1", video=True)
    with av.open(str(root / FIRST_VIDEO["v2.1"]), "w", format="mp4") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
        for _ in range(6):
            container.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
                )
            )
        container.mux(stream.encode())
    assert errors(root, "images.video") == [("D05", "lift/episode_0")]


def test_a_video_longer_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "video.mp4"
    write_video(path, [10] * 6)
    with pytest.raises(RefusedError) as caught:
        video.read_frames(path, start_s=0.0, rate_hz=10.0, frames=10**7)
    assert caught.value.code == "D17"


def test_stills_that_are_hostile(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "lift", "v2.1", still=True)
    path = root / FIRST_DATA["v2.1"]
    table = pq.read_table(path)
    place = table.column_names.index("observation.images.still")
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    huge = bytearray(png(1))
    huge[16:24] = (60_000).to_bytes(4, "big") * 2  # IHDR, and its check sum
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    for data, code in (
        (b"GIF89a" + b"\0" * 20, "D05"),
        (png(1)[:60], "D05"),
        (png(1, (10, 10)), "D05"),
        (bytes(huge), "D17"),
        (png(1, (2400, 4200)), "D17"),
        (None, "D16"),
    ):
        rows = [{"bytes": png(1), "path": ""}] * 5 + [{"bytes": data, "path": "/etc/passwd"}]
        pq.write_table(
            table.set_column(place, "observation.images.still", pa.array(rows, kind)), path
        )
        assert errors(root, "images.still") == [(code, "lift/episode_0")], code
    assert not errors(root, "grip")


def test_stills_beyond_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_columns, "MAX_BYTES", 2 * 48 * 64 * 3)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = pa.chunked_array([pa.array([{"bytes": png(1), "path": ""}] * 3, kind)])
    with pytest.raises(RefusedError) as caught:
        arrow_columns.stills(rows, "still")
    assert caught.value.code == "D17"


def test_depth_is_not_offered(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "lift", video=True)
    said = json.loads((root / "meta/info.json").read_text())
    said["features"]["observation.images.video"]["info"] = {"is_depth_map": True}
    (root / "meta/info.json").write_text(json.dumps(said))
    assert errors(root, "images.video") == [("D22", None)]
    assert "images" not in LeRobotReader().facts(root)


def test_two_cameras_of_one_name(tmp_path: Path) -> None:
    """``observation.video`` and ``observation.images.video``: each is found under its own name."""
    root = write_lerobot(tmp_path / "lift", still=True, video=True)
    said = json.loads((root / "meta/info.json").read_text())
    said["features"]["observation.video"] = said["features"]["observation.images.still"]
    (root / "meta/info.json").write_text(json.dumps(said))
    assert LeRobotReader().facts(root)["images"] == "still, images.video, video"
    assert not errors(root, "images.video")
    assert {code for code, _ in errors(root, "video")} == {"D02"}  # its column is not in the table
