"""Single episodes: found by name, drawn, played."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.factories import make_episode, make_episodes, write_demo_file
from tests.fixed_reader import Fixed, source
from tests.minari_files import write_minari_file
from zprl.data.episode import Episode
from zprl.data.findings import Finding
from zprl.data.inspection import plot_episode, video
from zprl.data.inspection.inspection import image_sizes
from zprl.data.select_episodes import first_episodes, pick
from zprl.data.sources import Source, find_sources
from zprl.errors import ConfigError, DataError


def size(png: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(png)).size


def red_and_blue(length: int = 6) -> Episode:
    """Frame t: the left camera is all of red t, the right one, half as high, all blue."""
    left, right = np.zeros((length, 24, 32, 3), np.uint8), np.zeros((length, 12, 12, 3), np.uint8)
    left[..., 0] = 40 * np.arange(length)[:, None, None]
    right[..., 2] = 200
    return replace(make_episode(0, length=length), obs={"left": left, "right": right}, rate_hz=10.0)


def test_picking_by_name_end_and_position() -> None:
    a, b = (
        source(name, [make_episode(number, name=f"{name}/demo_{number}") for number in range(3)])
        for name in "ab"
    )
    names = [episode.name for episode in pick([a, b], ["b/demo_2", "demo_1", "3"])]
    assert names == ["b/demo_2", "a/demo_1", "b/demo_0"]
    with pytest.raises(DataError, match="no episode 'demo_9' among 6") as caught:
        pick([a, b], ["demo_1", "demo_9"])
    assert "demo_" in str(caught.value.remedy)
    assert [episode.name for episode in first_episodes([a, b], 3)] == [
        "a/demo_0",
        "a/demo_1",
        "b/demo_0",
    ]


class First(Fixed):
    """A reader that keeps to ``first`` and notes what it was asked for."""

    def __init__(self, items: list[Episode | Finding]) -> None:
        super().__init__(items)
        self.first: int | None = None
        self.asked: list[int | None] = []

    def read(self, path: Path) -> Iterator[Episode | Finding]:
        self.asked.append(self.first)
        yield from self.items[: self.first]


def numbered(count: int) -> list[Episode | Finding]:
    return [make_episode(0, length=4, name=f"a/demo_{number}") for number in range(count)]


DEFECT = Finding("D02", "error", "a.fixed", "broken", "mend it")


def test_a_late_episode_is_reached_by_reading_more_and_more() -> None:
    reader = First(numbered(40))
    (late,) = pick([Source(Path("a.fixed"), reader)], ["39"])
    assert (late.name, reader.asked) == ("a/demo_39", [32, 512])
    with pytest.raises(DataError, match="among 40"):
        pick([Source(Path("a.fixed"), reader)], ["40"])


def test_findings_among_the_first_items_do_not_end_the_search() -> None:
    """Two findings and 30 episodes fill the first reading; the wanted episode comes after them."""
    reader = First([DEFECT, DEFECT, *numbered(40)])
    (late,) = pick([Source(Path("a.fixed"), reader)], ["demo_35"])
    assert (late.name, reader.asked) == ("a/demo_35", [32, 512])
    with pytest.raises(DataError, match="among 40"):
        pick([Source(Path("a.fixed"), reader)], ["demo_40"])


def test_the_first_episodes_come_after_any_number_of_findings() -> None:
    """A share of two reads four items at first, which here are all findings."""
    broken, sound = First([DEFECT] * 5 + numbered(3)), First(numbered(3))
    sources = [Source(Path("a.fixed"), broken), Source(Path("b.fixed"), sound)]
    names = [episode.name for episode in first_episodes(sources, 4)]
    assert names == ["a/demo_0", "a/demo_1"] * 2
    assert (broken.asked, sound.asked) == ([4, 512], [4])


def test_a_column_per_episode() -> None:
    one, three = (size(plot_episode.plot(make_episodes(count)))[0] for count in (1, 3))
    assert three > 2 * one - 300
    assert plot_episode.plot(make_episodes(1)) == plot_episode.plot(make_episodes(1))
    assert (
        plot_episode.title(make_episode(0, quality="worse", success=False))
        == "made/demo_0: failure, worse"
    )


def test_broken_formulas_in_names_are_only_text() -> None:
    episode = make_episode(0, name=r"a/$\frac{$")
    odd = replace(
        episode,
        obs={
            r"$\bad{": episode.obs["object"],
            **{f"k{number}": episode.obs["object"] for number in range(2)},
        },
    )
    assert size(plot_episode.plot([odd]))
    assert size(
        video._png(next(video._drawings(replace(episode, name="$x_$"), "robot0_eef_pos", [3])))
    )


def test_spread_keeps_both_ends() -> None:
    assert video.spread(1, 5) == [0]
    assert video.spread(10, 4) == [0, 3, 6, 9]
    assert len(video.spread(1000, video.MOST_IMAGES)) == video.MOST_IMAGES


def test_a_strip_shows_the_frames_in_order(tmp_path: Path) -> None:
    assert video.save(red_and_blue(), tmp_path / "s.png") == 6
    strip = Image.open(tmp_path / "s.png")
    cell = (320 + 240, 240)  # 32 x 24 and 12 x 12, both 240 high
    assert strip.size == (4 * cell[0], 2 * cell[1])
    for frame in range(6):
        left, top = frame % 4 * cell[0], frame // 4 * cell[1]
        assert strip.getpixel((left + 100, top + 100)) == (40 * frame, 0, 0)
        assert strip.getpixel((left + 400, top + 100)) == (0, 0, 200)


def test_an_animation_takes_the_episode_s_own_time(tmp_path: Path) -> None:
    video.save(red_and_blue(), tmp_path / "a.gif")
    moving = Image.open(tmp_path / "a.gif")
    assert moving.n_frames == 6
    durations = []
    for frame in range(6):
        moving.seek(frame)
        durations.append(moving.info["duration"])
    assert durations == [100] * 6


def test_without_images_the_path_is_played(tmp_path: Path) -> None:
    episode = make_episode(1, length=8)
    assert video.save(episode, tmp_path / "a.gif") == 8
    assert Image.open(tmp_path / "a.gif").n_frames == 8
    name, gripper = video._gripper(episode)
    assert name == "robot0_gripper_command"
    assert gripper.tolist() == [1, 1, 1, 1, -1, -1, -1, -1]


def test_mp4_where_pyav_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    av = pytest.importorskip("av")
    assert video.save(red_and_blue(), tmp_path / "a.mp4") == 6
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 6


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none of"):
        video.save(red_and_blue(), tmp_path / "a.avi")
    blind = replace(make_episode(0), obs={"object": make_episode(0).obs["object"]})
    with pytest.raises(DataError, match="no images"):
        video.save(blind, tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


def test_images_are_known_from_headers(tmp_path: Path) -> None:
    write_demo_file(tmp_path / "a.hdf5", 1)
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        file["data/demo_0/obs/wrist"] = np.zeros((40, 12, 16, 3), np.uint8)
        file["data/demo_0/obs/depth"] = np.zeros((40, 12, 16, 1), np.uint8)
        file["data/demo_0/obs/elsewhere"] = h5py.SoftLink("/data/demo_0/obs/wrist")
    (found,) = find_sources(tmp_path / "a.hdf5")
    assert image_sizes(found) == {}, "a file with links tells nothing"
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        del file["data/demo_0/obs/elsewhere"]
    assert image_sizes(found) == {"wrist": (12, 16)}
    pixels = {"camera": {"front": np.zeros((7, 8, 10, 3), np.uint8)}, "state": np.zeros((7, 2))}
    write_minari_file(tmp_path / "m.hdf5", observations=pixels)
    (found,) = find_sources(tmp_path / "m.hdf5")
    assert image_sizes(found) == {"camera.front": (8, 10)}
