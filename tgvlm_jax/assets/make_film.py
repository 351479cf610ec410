"""How big_buck_bunny.mp4 beside this file was made; nothing in the package runs it.

The source is the whole film at 1280x720 and 24 fps, as the source archive of moviepy 2.2.1 carries
it. It becomes 320x180 at 12 fps without sound, about 7 MB. Some 70 s on two cores.

    $ python tgvlm_jax/assets/make_film.py --out film.mp4
    $ python tgvlm_jax/assets/make_film.py --source bbb.mp4 --out film.mp4

The same releases of PyAV and x264 (18.1 and the one inside it) give the same bytes; others give
the same frames at the same times.

Big Buck Bunny is (c) copyright 2008, Blender Foundation / www.bigbuckbunny.org, CC BY 3.0.
"""

import argparse
import fractions
import hashlib
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile

import av

PACKAGE = "moviepy==2.2.1"
ZIP = "docs/_static/medias/getting_started/moviepy_10_minutes/moviepy_10_minutes.zip"
MEMBER = "moviepy_10_minutes/resources/bbb.mp4"
SHA256 = "475fbbf34c4c367998f80c29ea03b15a743941179b12da3373fc6706e68621d0"

SOURCE_FPS = 24
WIDTH, HEIGHT, FPS = 320, 180, 12
# A key frame every 10 s at most; quality 29 at the slower preset kept fur and credits legible.
X264 = {"crf": "29", "preset": "slower", "g": "120"}


def download(folder: pathlib.Path) -> pathlib.Path:
    """Fetches moviepy's source archive with pip and takes the film out of it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", ":all:", "--dest", str(folder), PACKAGE]
    subprocess.run(command, check=True)
    (archive,) = folder.glob("moviepy-*.tar.gz")
    root = archive.name.removesuffix(".tar.gz")
    with tarfile.open(archive) as tar:
        tar.extract(f"{root}/{ZIP}", folder, filter="data")
    with zipfile.ZipFile(folder / root / ZIP) as films:
        return pathlib.Path(films.extract(MEMBER, folder))


def check(source: pathlib.Path) -> None:
    """Exits unless the file is, byte for byte, the one the shipped film was made from."""
    with source.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        sys.exit(f"{source}: not the expected film: sha256 is {found}, not {SHA256}")


def encode(source: pathlib.Path, out: pathlib.Path) -> int:
    """Scales every second frame into a silent mp4; returns how many there are."""
    part = out.with_name(f".{out.name}.part.mp4")
    frames = 0
    with av.open(str(source)) as film, av.open(str(part), "w") as small:
        video = film.streams.video[0]
        video.thread_type = "AUTO"
        stream = small.add_stream("libx264", rate=FPS, options=X264)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index, frame in enumerate(film.decode(video)):
            if index % (SOURCE_FPS // FPS):
                continue
            scaled = frame.reformat(WIDTH, HEIGHT, interpolation="AREA")
            scaled.pts, scaled.time_base = frames, fractions.Fraction(1, FPS)
            small.mux(stream.encode(scaled))
            frames += 1
        small.mux(stream.encode(None))
    os.replace(part, out)
    return frames


def main() -> None:
    """Finds the source, checks it, writes the film."""
    parser = argparse.ArgumentParser(description="Makes the film of the package again.")
    parser.add_argument("--source", type=pathlib.Path, help="bbb.mp4, if it is here already")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.source or download(pathlib.Path(folder))
        check(source)
        frames = encode(source, arguments.out)
    print(f"{arguments.out}: {frames} frames, {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
