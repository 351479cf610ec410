"""Publishes annotated frames as a versioned tensorflow-datasets set, without TensorFlow.

What tensorflow-datasets can write and read with no TensorFlow installed decides the layout: frames
are stored as JPEG bytes, not as an Image or Video feature, and the spans of all annotations lie in
one flat list with the index of their annotation, since a list in a list needs TensorFlow. `nested`
turns a record back. Times are stored as raw float64; the records' own floats have 32 bits.

    publish(Path("out"), name="my_set", version="1.0.0", splits={"train": examples})
    source = open_source(Path("out"), name="my_set", version="1.0.0", split="train")
    grain.MapDataset.source(source).map(nested)
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import simplejpeg
import tensorflow_datasets as tfds
from jaxtyping import Float64

from tgvlm_jax.data.shards import FrameShards
from tgvlm_jax.types import InputError, Sample


class Annotation(TypedDict):
    """A question about a video, its answer, and the (start, end) seconds that ground it."""

    question: str
    answer: str
    kind: str
    spans: Sequence[tuple[float, float]]


class Example(TypedDict):
    """A video: JPEG frames, when each comes on screen in seconds, and what is asked about it."""

    id: str
    frames: Sequence[bytes]
    seconds: Float64[np.ndarray, "f"]
    annotations: Sequence[Annotation]


class FrameSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The builder of any such set: its name, version and examples are given, not coded.

    Attributes:
        splits: for each split the examples, read once, in order, and stored in that order.
    """

    # The examples come from the caller, so there are no checksums to look for beside this file;
    # the search needs importlib_resources, which tensorflow-datasets does not declare.
    code_path = None

    def __init__(
        self,
        *,
        name: str,
        version: str,
        splits: Mapping[str, Iterable[Example]],
        description: str = "Video frames with grounded questions and answers.",
        **settings: Any,
    ) -> None:
        self.name = name  # pyright: ignore[reportAttributeAccessIssue]  (as its AdhocBuilder does)
        self.VERSION = tfds.core.Version(version)
        self.splits = splits
        self.description = description
        super().__init__(file_format="array_record", **settings)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features

        def raw(dtype: type) -> tfds.features.Tensor:
            return features.Tensor(shape=(None,), dtype=dtype, encoding="bytes")

        return tfds.core.DatasetInfo(
            builder=self,
            description=self.description,
            features=features.FeaturesDict(
                {
                    "id": features.Text(),
                    "frames": features.Sequence(features.Text()),
                    "seconds": raw(np.float64),
                    "annotations": features.Sequence(
                        {key: features.Text() for key in ("question", "answer", "kind")}
                    ),
                    "spans": {
                        "annotation": raw(np.int32),
                        "start": raw(np.float64),
                        "end": raw(np.float64),
                    },
                }
            ),
            disable_shuffling=True,  # readers shuffle; a set keeps the order it was given
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        return {
            split: self._generate_examples(split, examples)
            for split, examples in self.splits.items()
        }

    def _generate_examples(
        self, split: str, examples: Iterable[Example]
    ) -> Iterator[tuple[int, dict]]:
        index = -1
        for index, example in enumerate(examples):
            yield index, _flat(example)
        if index < 0:
            raise InputError(f"{self.name}: split {split!r} has no examples; leave it out")


def publish(
    out: Path,
    *,
    name: str,
    version: str,
    splits: Mapping[str, Iterable[Example]],
    description: str = "Video frames with grounded questions and answers.",
) -> Path:
    """Writes out/name/version, or leaves it alone if it is there.

    Args:
        out: where sets live; tensorflow-datasets calls it data_dir.
        name: in lower case with underscores.
        version: "major.minor.patch"; raise it when the content changes.
        splits: for each split its examples; iterators will do, nothing is kept in memory.
        description: goes into dataset_info.json.

    Returns:
        The directory of the set.

    Raises:
        InputError: a split is empty, an example is inconsistent, or `out` cannot be written to.
    """
    try:
        builder = FrameSet(
            name=name, version=version, splits=splits, description=description, data_dir=out
        )
        builder.download_and_prepare()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{out}: cannot be written to ({reason}); choose another") from error
    return Path(builder.data_dir)


def open_source(out: Path, *, name: str, version: str, split: str) -> Sequence[Any]:
    """A published split for random access, as Grain's `MapDataset.source` takes it.

    Raises:
        InputError: there is no such set or split.
    """
    directory = Path(out) / name / version
    try:
        builder = tfds.builder_from_directory(str(directory))
    except (OSError, ValueError) as error:
        raise InputError(f"{directory}: no such data set; publish it first") from error
    if split not in builder.info.splits:
        there = ", ".join(sorted(builder.info.splits))
        raise InputError(f"{directory}: has no split {split!r}; it has {there}")
    return builder.as_data_source(split)  # pyright: ignore[reportCallIssue]  (it is decorated)


def examples_from_shards(
    shards: FrameShards, annotations: Mapping[str, Sequence[Annotation]]
) -> Iterator[Example]:
    """The annotated videos of a shard directory, as examples; others are left out.

    Raises:
        ShardError: an annotated video is not in the shards.
    """
    for video_id, about in annotations.items():
        seconds = shards.seconds(video_id)
        frames = shards.jpegs(video_id, 0, len(seconds))
        yield Example(id=video_id, frames=frames, seconds=seconds, annotations=about)


def examples_from_samples(samples: Iterable[Sample], *, quality: int = 95) -> Iterator[Example]:
    """Made samples (a pretext task's) as examples, one clip with one question each.

    Every frame of a clip is compressed alike, so what was changed in it leaves no other trace.
    """
    for number, sample in enumerate(samples):
        about = Annotation(
            question=sample.question,
            answer=sample.answer,
            kind=sample.kind,
            spans=[(float(start), float(end)) for start, end in sample.spans],
        )
        yield Example(
            id=f"{sample.video}-{number:06d}",
            frames=[simplejpeg.encode_jpeg(frame, quality=quality) for frame in sample.frames],
            seconds=sample.seconds,
            annotations=[about],
        )


def nested(record: Mapping[str, Any]) -> Example:
    """A record as it was given to `publish`: strings, JPEG bytes, spans with their annotation."""
    spans, texts = record["spans"], record["annotations"]
    rows = list(zip(spans["annotation"], spans["start"], spans["end"], strict=True))
    annotations = [
        Annotation(
            question=question.decode(),
            answer=answer.decode(),
            kind=kind.decode(),
            spans=[(float(start), float(end)) for owner, start, end in rows if owner == index],
        )
        for index, (question, answer, kind) in enumerate(
            zip(texts["question"], texts["answer"], texts["kind"], strict=True)
        )
    ]
    return Example(
        id=record["id"].decode(),
        frames=list(record["frames"]),
        seconds=np.asarray(record["seconds"]),
        annotations=annotations,
    )


def _flat(example: Example) -> dict[str, Any]:
    seconds = np.asarray(example["seconds"], dtype=np.float64)
    if len(seconds) != len(example["frames"]):
        raise InputError(
            f"{example['id']}: {len(example['frames'])} frames but {len(seconds)} times;"
            " give one time for each frame"
        )
    rows = [
        (index, start, end)
        for index, annotation in enumerate(example["annotations"])
        for start, end in annotation["spans"]
    ]
    for _, start, end in rows:
        if not 0 <= start < end:
            raise InputError(f"{example['id']}: {start} s to {end} s is no span; correct it")
    return {
        "id": example["id"],
        "frames": list(example["frames"]),
        "seconds": seconds,
        "annotations": [
            {key: annotation[key] for key in ("question", "answer", "kind")}
            for annotation in example["annotations"]
        ],
        "spans": {
            "annotation": np.array([row[0] for row in rows], dtype=np.int32),
            "start": np.array([row[1] for row in rows], dtype=np.float64),
            "end": np.array([row[2] for row in rows], dtype=np.float64),
        },
    }
