"""The answer must be in what is seen, not in how often a frame was compressed.

The released generator writes changed frames as JPEG of quality 75 beside others of 95: a detector
that looks at nothing but the 8 x 8 grid of the encoder finds the stretch. The same detector is run
on our clips, where it must be at chance, and on clips made in the released way, where it is not.
"""

import io

import numpy as np
import pytest
from PIL import Image

from tests.data import bad_videos
from tgvlm_jax.data import pretext_tasks
from tgvlm_jax.data.pretext_source import PretextTasks
from tgvlm_jax.data.shard_writer import write_shards
from tgvlm_jax.data.shards import open_shards
from tgvlm_jax.rewards.videossr import read_interval
from tgvlm_jax.schema import DataConfig

SIZE = (128, 304)  # as stored, in whole blocks: the encoder's grid stays where it is
FRAMES, CLIPS = 16, 6
# Of the kinds that keep the values of pixels; the others change what a detector measures.
KINDS = ("mirror", "rotate180", "channel_swap", "shuffle")


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid") / "shards"
    settings = {"fps": 12.5, "height": SIZE[0], "width": SIZE[1], "progress": False}
    write_shards({"bikes": bad_videos.BIKES}, folder, **settings)
    return open_shards(folder)


def ranked(clip, changed):
    """The chance that a changed frame shows more of the grid than one that is not (AUC).

    The grid: steps between neighbours across the edges of blocks, over those inside of blocks.
    """
    green = clip[..., 1].astype(np.int16)  # which a swap of red and blue leaves alone
    scores = np.zeros(len(clip))
    for axis in (1, 2):
        steps = np.abs(np.diff(green, axis=axis)).mean(axis=3 - axis)
        across = np.arange(steps.shape[1]) % 8 == 7
        scores += steps[:, across].mean(axis=1) / steps[:, ~across].mean(axis=1)
    above = np.round(scores[changed][:, None] - scores[~changed], 9)
    return np.mean((above > 0) + 0.5 * (above == 0))


def encoded(frame, quality):
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=int(quality))
    return np.asarray(Image.open(buffer))


def clips(film, kind):
    """Changed clips, with the frames that the answer names."""
    config = DataConfig(
        fps=12.5, frames=(FRAMES,), strides=(1, 2), tasks=("grounding",), kinds=(kind,),
        train_span=(0.0, 1.0), eval_span=(0.0, 1.0), crop=1.0, jitter=0.0,
    )  # fmt: skip
    made = PretextTasks(film, config, size=SIZE, split="train", seed=0)
    for index in range(CLIPS):
        sample = made.sample(index, frames=FRAMES)
        start, end = read_interval(sample.answer)
        yield sample.frames, (sample.seconds >= start - 0.05) & (sample.seconds < end - 0.05)


def test_compression_does_not_tell_the_changed_frames(film, monkeypatch):
    made = [pair for kind in KINDS for pair in clips(film, kind)]
    ours = np.array([ranked(*pair) for pair in made])
    assert abs(ours.mean() - 0.5) < 0.12

    # What is left is the film's: a change that changes nothing leaves every score where it was.
    monkeypatch.setattr(pretext_tasks, "change", lambda frame, *_, **__: frame)
    untouched = [ranked(*pair) for kind in KINDS for pair in clips(film, kind)]
    np.testing.assert_allclose(ours, untouched, atol=1e-9)

    # And the detector does see what it looks for.
    released = []
    for clip, changed in made[::2]:
        written = [encoded(*one) for one in zip(clip, np.where(changed, 75, 95), strict=True)]
        released.append(ranked(np.stack(written), changed))
    assert min(released) > 0.9
