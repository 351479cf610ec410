"""Data, optimiser, loop, mesh: everything of a run but its model and its objective."""

import dataclasses
from typing import Literal

from tgvlm_jax.schema.checks import divides, not_negative, positive
from tgvlm_jax.schema.model import ModelConfig
from tgvlm_jax.schema.objective import FpoConfig, GrpoConfig, SftConfig
from tgvlm_jax.schema.takes import TakesConfig
from tgvlm_jax.schema.towers import FrameEncoderConfig, TimesformerConfig
from tgvlm_jax.schema.turns import ImitateConfig, PpoConfig, TurnsConfig
from tgvlm_jax.types import InputError

MOST_PACKED = 1000
"""Samples that a row may have at most (`tgvlm_jax.ops.masks`)."""

ANOMALY_KINDS = (
    "grayscale",
    "invert",
    "channel_swap",
    "rotate180",
    "mirror",
    "noise",
    "blur",
    "saturation",
    "zoom_in",
    "zoom_out",
    "shuffle",
    "stutter",
)
PRETEXT_KINDS = (*ANOMALY_KINDS, "rotate90", "rotate270", "slow", "fast")
PRETEXT_TASKS = ("grounding", "counting", "jigsaw")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where samples come from and how they are cut into batches.

    Attributes:
        shards: folder that `tgvlm shard` wrote, of this machine or gs://BUCKET/....
        fps: frames a second of those shards; annotated videos may have a whole multiple of it.
        annotations: JSON to train on, about videos in the shards, of E.T. Instruct or of VideoP2R
            (parts by a `*` in the name); "" makes questions out of the videos themselves.
        eval_annotations: the same for evaluation; "" where `annotations` is.
        takes: both are of Ego-Exo4D's proficiency instead, about several views at a time.
        min_seconds, max_seconds, max_words: videos and answers outside are not trained on.
        times: "covered": a frame is on screen until the next one, so an interval ends with that;
            "points": frame and second are the same, ends included (D2VLM 1.7).
        fit: how frames get the size that the tower takes: "stretch", or "centre" keeps the shape of
            things and cuts off what is beside the middle (D2VLM 1.1).
        min_pixels, max_pixels: of a frame, for a tower that takes all sizes (Qwen-VL); stored
            frames are scaled into these, and their shape is kept.
        grid_seconds: for Qwen2.5-VL, how long it is told that a pair of frames lasts; 0: as long as
            it does. Video-R1 and VideoP2R train with 1 and evaluate with 0.
        prompt_tokens: for such a tower, the length that all prompts are padded to.
        patch_rows, patch_slots: for such a tower, the rows that a sample's patches are laid out in,
            and patches to a row; a row holds whole frames. 0: a row for every pair of frames, slots
            for the largest frame that `max_pixels` allows.
        tokenizer: folder in Hugging Face format, or "tiny" for the one shipped with the library.
        template: chat template, a name in `tgvlm_jax.data.chat`.
        system: system text in the place of the template's own; "" leaves that.
        instruction: what every question is followed by: "process" asks for an observation, thoughts
            and an answer in tags (VideoP2R 1.1), "process_brief" in a line; "" for nothing.
        question_vocab: BERT's vocab.txt for a tower that reads the question, or "tiny" for the one
            shipped; "" where the tower does not. question_tokens: longest question in its pieces;
            question_bucket: padded up to multiples of this.
        batch_size: samples a step over all hosts; rows of them with `pack`.
        pack: samples a row on average, so that a step takes `batch_size` times as many; 1 gives
            each a row of its own. For supervised training of a model without evidence heads;
            `prompt_tokens` and `patch_rows` are then the most that one sample may have.
        frames: the frame buckets: how many frames a batch may have. An annotated video longer than
            the largest one gets that many, evenly spread.
        strides: clips take every stride-th stored frame, drawn from these.
        kinds: anomalies to ground, among `ANOMALY_KINDS`; with `tasks` among `PRETEXT_KINDS`, of
            which "slow" and "fast" want strides of 2 and more.
        tasks: pretext tasks that are answered in plain text (VideoSSR 3.1), among `PRETEXT_TASKS`,
            alike often, twice as often if named twice; none makes anomaly grounding by evidence.
        counting: how many shapes there are to count. jigsaw_clips: into how many clips a video is
            cut to be put in order, drawn from these.
        train_span, eval_span: the parts of every video, as fractions of its duration, that
            training and evaluation clips lie in.
        skip_seconds: (start, end) pairs of every video that no clip touches, such as credits.
        crop: smallest side of a random crop of a training clip, as a fraction.
        jitter: strength of the random colour change of a training clip; 0 is none.
        prompt_bucket, response_bucket: text lengths are padded up to multiples of these.
        visual_bucket: with `pack`, so are the rows of patches, or the frames, of a row's samples.
            Long rows are padded in wider steps, some four to an octave, so that few shapes are
            compiled (`tgvlm_jax.data.packing.row_length`).
        max_events: spans an answer may have; evidence slots are padded to it.
        max_sources: spans a question may point at by `<evi>`; 0 for none.
        threads: reader threads; prefetch: batches made ahead.
        turns: questions are about a pool of frames, looked at in several turns; None: about clips
            that are shown at once. `annotations` are then of `tgvlm_jax.data.looking`.
    """

    shards: str = ""
    fps: float = 4.0
    annotations: str = ""
    eval_annotations: str = ""
    takes: TakesConfig | None = None
    min_seconds: float = 5.0
    max_seconds: float = 350.0
    max_words: int = 200
    times: Literal["covered", "points"] = "covered"
    fit: Literal["stretch", "centre"] = "stretch"
    min_pixels: int = 128 * 128
    max_pixels: int = 256 * 256
    grid_seconds: float = 0.0
    prompt_tokens: int = 2048
    patch_rows: int = 0
    patch_slots: int = 0
    tokenizer: str = "tiny"
    template: str = "phi3"
    system: str = ""
    instruction: Literal["", "process", "process_brief"] = ""
    question_vocab: str = ""
    question_tokens: int = 256
    question_bucket: int = 32
    batch_size: int = 8
    pack: int = 1
    frames: tuple[int, ...] = (32,)
    strides: tuple[int, ...] = (1, 2)
    kinds: tuple[str, ...] = ANOMALY_KINDS
    tasks: tuple[str, ...] = ()
    counting: Literal["easy", "hard"] = "easy"
    jigsaw_clips: tuple[int, ...] = (6,)
    train_span: tuple[float, float] = (0.0, 2 / 3)
    eval_span: tuple[float, float] = (2 / 3, 1.0)
    skip_seconds: tuple[tuple[float, float], ...] = ()
    crop: float = 0.6
    jitter: float = 1.0
    prompt_bucket: int = 16
    response_bucket: int = 16
    visual_bucket: int = 8
    max_events: int = 1
    max_sources: int = 0
    threads: int = 2
    prefetch: int = 4
    turns: TurnsConfig | None = None

    @property
    def samples(self) -> int:
        """Samples a step over all hosts."""
        return self.batch_size * self.pack

    def __post_init__(self):
        kinds = PRETEXT_KINDS if self.tasks else ANOMALY_KINDS
        for kind in self.kinds:
            if kind not in kinds:
                raise InputError(f"kinds: {kind!r} is not one of {', '.join(kinds)}")
        for task in self.tasks:
            if task not in PRETEXT_TASKS:
                raise InputError(f"tasks: {task!r} is not one of {', '.join(PRETEXT_TASKS)}")
        if self.pack > MOST_PACKED:
            raise InputError(f"pack={self.pack}: give {MOST_PACKED} at most")
        if not self.kinds or not self.frames or not self.strides or not self.jigsaw_clips:
            raise InputError("kinds, frames, strides and jigsaw_clips must each name at least one")
        if not all(2 <= clips <= 9 for clips in self.jigsaw_clips):
            raise InputError(
                f"jigsaw_clips={self.jigsaw_clips}: give 2 to 9, a digit for each clip"
            )
        whole = ("batch_size", "frames", "strides", "max_events")
        positive(self, *whole, "prompt_bucket", "response_bucket", "visual_bucket", "pack")
        positive(self, "question_tokens", "question_bucket", "max_words")
        positive(self, "min_pixels", "prompt_tokens")
        for name in ("max_sources", "patch_rows", "patch_slots"):
            if (count := getattr(self, name)) < 0:
                raise InputError(f"{name}={count}: give 0 or more")
        if self.min_pixels > self.max_pixels:
            raise InputError(
                f"min_pixels={self.min_pixels} is more than max_pixels={self.max_pixels}"
            )
        for name, (start, end) in (("train_span", self.train_span), ("eval_span", self.eval_span)):
            if not 0.0 <= start < end <= 1.0:
                raise InputError(f"{name}=({start}, {end}) must be fractions 0 <= start < end <= 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupConfig:
    """An optimiser group: parameters whose dotted path matches `pattern` (first match wins)."""

    pattern: str
    lr_scale: float = 1.0
    frozen: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Linear warm-up, decay, by parameter group.

    Attributes:
        name: "adamw", or "muon": orthogonalised momentum for matrices, AdamW for the rest.
        decay: the course from `lr` to `final_lr`, a "cosine" or "linear".
        final_lr: learning rate at the last step, as a fraction of `lr`.
        clip: largest global gradient norm; 0 does not clip.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    warmup_steps: int = 20
    decay: Literal["cosine", "linear"] = "cosine"
    final_lr: float = 0.02
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    clip: float = 1.0
    groups: tuple[GroupConfig, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop.

    Attributes:
        steps: optimiser updates in all.
        init_from: folder of a checkpoint, of `tgvlm convert` or of an earlier run, whose parameters
            the first step starts from; "" starts from scratch. Adapters that are not there, and a
            tower or evidence heads of which nothing is there, are initialised; the rest must fit.
        accumulate: micro-batches a batch is cut into; exact, whatever the padding.
        checkpoint_every: steps between checkpoints (one is always written at the end).
        keep: the newest checkpoints that are kept. keep_every: those whose step it divides are kept
            for good; 0: none.
        watchdog_seconds: a run in which no step is finished for so long ends and says which host
            hangs in which phase; compiling must take less. 0 waits for ever.
        on_nan: what to do about an update whose loss or gradient is no number: "skip" it, "rewind"
            to the checkpoint before and go on with the data after it, "stop". It is never applied.
        on_spike: the same about a gradient norm, or a loss of supervised training, of more than
            `spike_factor` times the median of the last `spike_window` updates; "ignore" applies it.
        skips: steps without any update in a row, rewinds: in all, after which the run stops.
    """

    steps: int = 1000
    init_from: str = ""
    accumulate: int = 1
    log_every: int = 10
    checkpoint_every: int = 200
    keep: int = 2
    keep_every: int = 0
    watchdog_seconds: float = 1800.0
    on_nan: Literal["skip", "rewind", "stop"] = "skip"
    on_spike: Literal["ignore", "skip", "rewind", "stop"] = "ignore"
    spike_factor: float = 10.0
    spike_window: int = 64
    skips: int = 10
    rewinds: int = 3

    def __post_init__(self):
        positive(self, "steps", "accumulate", "log_every", "checkpoint_every", "keep")
        positive(self, "spike_window", "skips", "rewinds")
        not_negative(self, "watchdog_seconds")
        if not self.spike_factor > 1:
            raise InputError(f"train.spike_factor={self.spike_factor}: give more than 1")
        if self.keep_every:
            every = self.checkpoint_every
            divides("train.checkpoint_every", every, "train.keep_every", self.keep_every)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Held-out evaluation.

    Attributes:
        samples: clips, spread evenly over the kinds.
        batch_size: clips generated at once.
        max_tokens: longest answer.
        seed: fixes the clips, whatever the seed of training.
    """

    samples: int = 96
    batch_size: int = 16
    max_tokens: int = 24
    seed: int = 1234

    def __post_init__(self):
        positive(self, "samples", "batch_size", "max_tokens")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices per mesh axis; -1 (one axis only) takes what is left. All 1: no mesh.

    Attributes:
        dcn: data parallel over slices. fsdp: data parallel within a slice, parameters sharded.
        tp: tensor parallel. cp: context parallel (sequence).
        gather: when the weights that fsdp cuts are put together: in every "layer" and again for its
            gradient, or in every "step" (micro-batch), once; then a chip holds all weights of the
            layers, cut by tp alone, and as much of gradients, in the type of activations.
    """

    dcn: int = 1
    fsdp: int = 1
    tp: int = 1
    cp: int = 1
    gather: Literal["layer", "step"] = "layer"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run, whole.

    Attributes:
        profile: steps to trace into WORKDIR/profile (`train/profile.py`): true for five after the
            first, how many, or which, such as "10:15".
    """

    name: str = "experiment"
    seed: int = 0
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = DataConfig()
    objective: SftConfig | FpoConfig | GrpoConfig | PpoConfig | ImitateConfig = dataclasses.field(
        default_factory=SftConfig
    )
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvalConfig = EvalConfig()
    mesh: MeshConfig = MeshConfig()
    profile: bool | int | str = False

    def __post_init__(self):
        divides("train.accumulate", self.train.accumulate, "data.batch_size", self.data.batch_size)
        _check_packing(self)


def _check_packing(experiment: Experiment) -> None:
    """Raises InputError where samples cannot share a row."""
    model, data, tower = experiment.model, experiment.data, experiment.model.tower
    if data.pack == 1:
        return
    reads = isinstance(tower, FrameEncoderConfig) and tower.compressor.qformer.vocab_size > 0
    wrong = {
        "the objective is not supervised training: set objective.kind='sft'": not isinstance(
            experiment.objective, SftConfig
        ),
        "the model has evidence heads: set model.evidence=None": model.evidence is not None,
        "the tower reads the question": reads,
        "the tower sees several views at a time": isinstance(tower, TimesformerConfig),
        "questions point at spans: set data.max_sources=0": data.max_sources > 0,
        "rows are spread over devices: set mesh.cp=1": experiment.mesh.cp != 1,
    }
    for reason in (reason for reason, found in wrong.items() if found):
        raise InputError(f"data.pack={data.pack}, but {reason}, or data.pack=1")
