"""The smallest model that has every part, and ragged samples for it."""

import functools

import jax
import numpy as np

from tgvlm_jax.data.chat import Encoded
from tgvlm_jax.data.collate import collate
from tgvlm_jax.models import parameters
from tgvlm_jax.schema import (
    DataConfig,
    DecoderConfig,
    EvidenceConfig,
    Experiment,
    ModelConfig,
    TinyVitConfig,
)
from tgvlm_jax.train import step
from tgvlm_jax.types import Sample

PAD, EVIDENCE, END, FRAME = 0, 1, 2, 3
CONFIG = ModelConfig(
    tower=TinyVitConfig(
        height=24, width_px=32, patch=8, cell=4, cell_width=8, width=16, heads=2, hidden=32
    ),
    decoder=DecoderConfig(
        vocab_size=32, width=16, layers=3, heads=4, kv_heads=2, head_size=8, hidden=32
    ),
    evidence=EvidenceConfig(bank_layer=1),
)
EXPERIMENT = Experiment(model=CONFIG)


def random_params(config=CONFIG, *, seed=0):
    """Initial parameters, all of them moved, so that no bias is 0 and no scale 1."""
    params = parameters.init(config, jax.random.key(seed))
    rng = np.random.default_rng(seed)
    noise = {name: rng.standard_normal(x.shape, np.float32) for name, x in sorted(params.items())}
    return {name: jax.device_put(np.float32(0.2) * x + params[name]) for name, x in noise.items()}


def sample(seed, *, frames=6, before=2, after=4, words=3, spans=((1, 3),)):
    """One sample and its ids: text, frames, text; then `<evi>`s, words, `<evi>`s, words, end."""
    rng = np.random.default_rng(seed)

    def text(count):
        return rng.integers(FRAME + 1, CONFIG.decoder.vocab_size, count)

    index = np.full(before + frames + after, -1, np.int32)
    index[before : before + frames] = np.arange(frames)
    evidence = np.full(len(spans), EVIDENCE)
    response = np.concatenate([evidence, text(words), evidence, text(words), [END]])
    return (
        Sample(
            frames=rng.integers(0, 256, (frames, 24, 32, 3), np.uint8),
            seconds=np.arange(frames, dtype=np.float64),
            duration=float(frames),
            question="",
            answer="",
            spans=np.reshape([(first, last + 1.0) for first, last in spans], (-1, 2)),
            video=str(seed),
            kind="",
        ),
        Encoded(
            prompt=np.concatenate([text(before), np.full(frames, FRAME), text(after)]).astype("i4"),
            visual_index=index,
            response=response.astype(np.int32),
            evidence=np.flatnonzero(response == EVIDENCE).astype(np.int32),
        ),
    )


# One that fills every bucket of `batch`, a short one, one without evidence, one of a single frame.
RAGGED = (
    sample(1, spans=((0, 1), (2, 5)), after=6),
    sample(2, frames=4, before=1, after=2, words=2),
    sample(3, frames=5, spans=()),
    sample(4, frames=1, words=5, spans=((0, 0),)),
)


def batch(samples=RAGGED, *, frames=6, prompt=14, response=13, events=2):
    """Samples padded to these very sizes."""
    config = DataConfig(
        frames=(frames,), prompt_bucket=prompt, response_bucket=response, max_events=events
    )
    made = collate(*zip(*samples, strict=True), config=config, pad_id=PAD)
    assert made.prompt.tokens.shape[1] == prompt, "the samples do not fit"
    assert made.response.tokens.shape[1] == response, "the samples do not fit"
    return jax.device_put(made)


@jax.jit
def read(params, made):
    """What prefill and extend make of a batch."""
    model = parameters.blueprint(CONFIG).build(params)
    prompt = model.prefill(made.prompt)
    return prompt, model.extend(prompt, made.response)


@functools.partial(jax.jit, static_argnames="experiment")
def gradients(params, made, experiment=EXPERIMENT):
    """Gradient and terms of a batch; traced anew on every mesh."""
    blueprint = parameters.blueprint(experiment.model)
    key = jax.random.key(0)
    return step.gradients(params, made, key, blueprint=blueprint, experiment=experiment)
