"""Real clips in any number: stretches of two films between key frames, copied without decoding."""

import itertools
import pathlib
from collections.abc import Iterator

import av
import numpy as np

from tests.data import bad_videos
from tests.data.bad_videos import BIKES

FILM = BIKES.parent.parent.parent / "tgvlm_jax" / "assets" / "big_buck_bunny.mp4"


def cut(folder: pathlib.Path, count: int) -> list[pathlib.Path]:
    """Writes `count` different clips (up to 190): of 1 to 3 s, then of 5 s, then of 10 s each."""
    every = itertools.chain(_stretches(BIKES, 1), _stretches(FILM, 1), _stretches(FILM, 2))
    paths = []
    for index, packets in enumerate(itertools.islice(every, count)):
        paths.append(folder / f"clip{index:03d}.mp4")
        _write(paths[-1], packets)
    assert len(paths) == count
    return paths


def _stretches(film: pathlib.Path, groups: int) -> Iterator[list[av.Packet]]:
    """Packets of consecutive groups of pictures, each group as often as there are stretches."""
    with av.open(str(film)) as source:
        stretches: list[list[av.Packet]] = [[]]
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is None:
                continue
            if packet.is_keyframe and stretches[-1]:
                stretches.append([])
            stretches[-1].append(packet)
        for start in range(len(stretches) - groups + 1):
            yield list(itertools.chain(*stretches[start : start + groups]))


def _write(path: pathlib.Path, packets: list[av.Packet]) -> None:
    start, stream = min(packet.dts for packet in packets), packets[0].stream
    with av.open(str(path), "w") as container:
        copy = container.add_stream_from_template(stream)
        for packet in packets:
            pts, dts = packet.pts, packet.dts
            packet.pts, packet.dts = pts - start, dts - start
            packet.stream = copy
            container.mux(packet)
            packet.pts, packet.dts, packet.stream = pts, dts, stream


def spoil(folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes ten videos that cannot be read, each in a way of its own."""
    makers = (
        *(bad_videos.zero_byte, bad_videos.text, bad_videos.no_index, bad_videos.cut_in_data),
        *(bad_videos.cut_matroska, bad_videos.overwritten, bad_videos.audio_only),
    )
    beside = folder.parent / "makers"
    beside.mkdir()
    paths = [make(beside).rename(folder / f"bad_{make.__name__}.mp4") for make in makers]
    contents = {
        "bad_bytes.webm": np.random.default_rng(0).bytes(50_000),
        "bad_header.mov": BIKES.read_bytes()[:40],
        "bad_zeros.avi": bytes(100_000),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return sorted([*paths, *(folder / name for name in contents)])
