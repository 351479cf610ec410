"""One test: importing tensorflow-datasets is slow, and the claim is about a whole process."""

import subprocess
import sys

from tests.data.bad_videos import BIKES

SCRIPT = """
import sys
from pathlib import Path
import grain
import numpy as np
import simplejpeg
from tgvlm_jax.data import tfds_builder
from tgvlm_jax.data.shard_writer import write_shards
from tgvlm_jax.data.shards import open_shards
from tgvlm_jax.types import InputError, Sample

bikes, base = Path(sys.argv[1]), Path(sys.argv[2])
write_shards([bikes], base / "shards", fps=2.0, height=34, progress=False)
shards = open_shards(base / "shards")
annotations = [
    dict(question="When is it?", answer="At 1.1 s. \\u00e9", kind="anomaly",
         spans=[(1.1, 2.7), (4.0, 5.25)]),
    dict(question="Is there a cat?", answer="No.", kind="presence", spans=[]),
]
examples = list(tfds_builder.examples_from_shards(shards, {"bikes": annotations}))
others = [dict(examples[0], id=f"copy {k}", annotations=annotations[k:]) for k in range(3)]
where = dict(name="bikes_set", version="1.2.0")
made = tfds_builder.publish(base, **where, splits={"train": iter(others), "test": examples})
assert made == base / "bikes_set" / "1.2.0", made
assert not any("tfrecord" in path.name for path in made.iterdir())

# Read back as somebody who has only the directory.
test = tfds_builder.open_source(base, **where, split="test")
train = tfds_builder.open_source(base, **where, split="train")
assert (len(train), len(test)) == (3, 1)
dataset = grain.MapDataset.source(train).map(tfds_builder.nested)
assert [dataset[k]["id"] for k in range(3)] == ["copy 0", "copy 1", "copy 2"]
for k, want in enumerate(others):
    got = dataset[k]
    assert got["frames"] == want["frames"]
    assert got["annotations"] == want["annotations"], got["annotations"]
    np.testing.assert_array_equal(got["seconds"], shards.seconds("bikes"))
mixed = dataset.shuffle(seed=1).repeat(2).to_iter_dataset()
assert sorted(row["id"] for row in mixed) == sorted(2 * [row["id"] for row in others])

short = dict(examples[0], seconds=examples[0]["seconds"][:3])
backwards = dict(examples[0], annotations=[dict(annotations[0], spans=[(3.0, 2.0)])])
(base / "file").write_text("")
refused = {
    "20 frames but 3 times": lambda: tfds_builder.publish(
        base, name="a", version="1.0.0", splits={"train": [short]}),
    "3.0 s to 2.0 s is no span": lambda: tfds_builder.publish(
        base, name="b", version="1.0.0", splits={"train": [backwards]}),
    "'train' has no examples": lambda: tfds_builder.publish(
        base, name="c", version="1.0.0", splits={"train": []}),
    "cannot be written to": lambda: tfds_builder.publish(
        base / "file", name="d", version="1.0.0", splits={"train": examples}),
    "publish it first": lambda: tfds_builder.open_source(
        base, name="bikes_set", version="2.0.0", split="train"),
    "it has test, train": lambda: tfds_builder.open_source(base, **where, split="val"),
}
for words, act in refused.items():
    try:
        act()
    except InputError as error:
        assert words in str(error) and "\\n" not in str(error), error
    else:
        raise AssertionError(words)
for name in "abcd":
    assert not list(base.glob(f"{name}/*")), name

# Samples of a pretext task, published and read back as a training source.
samples = [
    Sample(
        frames=np.full((4, 16, 16, 3), 40 * k, np.uint8), seconds=np.arange(4) / 2, duration=2.0,
        question="When?", answer="<evi></evi> At <evi>.", spans=np.array([[0.5, 1.5]]),
        video="film", kind="invert",
    )
    for k in range(3)
]
where = dict(name="anomalies", version="1.0.0")
tfds_builder.publish(
    base, **where, splits={"train": tfds_builder.examples_from_samples(samples)})
source = tfds_builder.open_source(base, **where, split="train")
for k in range(3):
    got = tfds_builder.nested(source[k])
    assert got["id"] == f"film-{k:06d}" and got["annotations"][0]["spans"] == [(0.5, 1.5)]
    pixels = simplejpeg.decode_jpeg(got["frames"][3])
    assert np.abs(pixels.astype(int) - 40 * k).max() <= 2

print("tensorflow" in sys.modules, "torch" in sys.modules)
"""


def test_published_set_comes_back_without_tensorflow(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(BIKES), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "False False"
