"""ProfVLM: how well a performance goes, seen by several cameras, and why (docs/systems/profvlm.md).

    tgvlm shard    --videos EGOEXO4D --out runs/takes --fps 30 --height 224
    tgvlm convert  --from SmolLM2-135M-Instruct --encoder timesformer-base-finetuned-k600 \
        --vocab_size 49155 --to runs/start
    tgvlm features --config configs/profvlm_sft.py --config.data.shards=runs/takes \
        --config.data.annotations=proficiency_demonstrator_train.json \
        --config.data.eval_annotations=proficiency_demonstrator_val.json \
        --config.train.init_from=runs/start --out runs/features
    tgvlm train    --config configs/profvlm_sft.py [the same] \
        --config.data.takes.commentary=expert_commentary_train.json \
        --config.data.takes.features=runs/features --config.data.tokenizer=runs/start/hf \
        --workdir runs/profvlm

Without features the encoder runs in every step, on windows that are drawn anew. Arguments after a
colon: `ego` or `exos` (those views alone; both are the default), `tiny` (every feature at the size
of a test; its encoder learns, too, unless `frozen`), `epochs=N`, `batch=N`, `steps=N` (0: as many
as the epochs have).
"""

import dataclasses

from tgvlm_jax.config import parse_arg, to_config_dict
from tgvlm_jax.schema import (
    Experiment,
    GroupConfig,
    LoraConfig,
    ModelConfig,
    TakesConfig,
    layouts,
    presets,
)

RECORDS = 4000  # about: every expert's commentary on a training take
WARMUP = 0.1  # share of the steps
EXOS = ("exo1", "exo2", "exo3", "exo4")
ENCODER, LANGUAGE_MODEL = r"^tower\.", r"^decoder\..*(?<!lora_a)(?<!lora_b)$"
ADAPTED = LoraConfig(pattern=r"^decoder\.blocks\.(q|v)$", rank=8, alpha=32, dropout=0.1)


def released() -> ModelConfig:
    """TimeSformer-base, the attentive gated projector and SmolLM2-135M."""
    # With <evi>, </evi> and <frame>, which stands where a video does.
    decoder = dataclasses.replace(presets.SMOLLM2_135M, vocab_size=49155)
    model = dataclasses.replace(presets.PROFVLM, decoder=decoder)
    return dataclasses.replace(model, lora=(ADAPTED,), dtype="bfloat16")


def tiny() -> ModelConfig:
    """Every structural feature of `released`, on a CPU."""
    tower = dataclasses.replace(presets.TIMESFORMER_TINY, frames=8)
    return dataclasses.replace(presets.PROFVLM_TINY, tower=tower, lora=(ADAPTED,))


def get_config(arg: str | None = None):
    """One experiment for each choice of views (ProfVLM 4)."""
    args = parse_arg(
        arg, tiny=False, ego=False, exos=False, frozen=False, epochs=6, batch=16, steps=0, mesh=""
    )
    exos = EXOS[:2] if args.tiny else EXOS
    views = ("ego", *exos) if args.ego == args.exos else ("ego",) if args.ego else exos
    name = "profvlm_" + ("ego_exos" if len(views) > len(exos) else "ego" if args.ego else "exos")
    model = tiny() if args.tiny else released()
    config = to_config_dict(Experiment(name=name + "_tiny" * args.tiny, model=model))
    config.data.takes = to_config_dict(TakesConfig(views=views))
    steps = args.steps or args.epochs * RECORDS // args.batch

    config.data.tokenizer = "tiny" if args.tiny else ""
    config.data.template = "smollm2"
    config.data.fps = 30.0
    config.data.fit = "centre"
    config.data.frames = (8,)
    config.data.batch_size = args.batch
    config.data.prompt_bucket = 64
    config.data.response_bucket = 64

    config.optim.lr = 1e-3
    config.optim.warmup_steps = round(WARMUP * steps)
    config.optim.final_lr = 0.0
    config.optim.weight_decay = 0.01
    frozen = (ENCODER, LANGUAGE_MODEL)
    if args.tiny:  # it starts from scratch
        frozen = (ENCODER,) if args.frozen else ()
    groups = (GroupConfig(pattern=pattern, frozen=True) for pattern in frozen)
    config.optim.groups = tuple(map(to_config_dict, groups))

    config.train.steps = steps
    config.train.checkpoint_every = max(1, steps // args.epochs)
    config.evaluation.samples = 10_000  # all
    config.evaluation.max_tokens = 300
    config.mesh.fsdp = 1 if args.tiny else -1
    layouts.lay_out(config, "profvlm", args.mesh, batch=args.batch)
    return make_tiny(config, steps=args.steps) if args.tiny else config


def make_tiny(config, *, steps):
    """Sizes of a test."""
    config.model.unroll = 2
    config.data.fps = 8.0
    config.data.takes.window = 1.0
    config.data.takes.commentary_tokens = 24
    config.data.prompt_bucket = 96
    config.data.response_bucket = 48
    config.optim.name = "muon"
    config.optim.lr = 3e-3
    config.optim.warmup_steps = 20
    config.optim.final_lr = 0.02
    config.optim.beta2 = 0.98
    config.train.steps = steps or 400
    config.train.log_every = 20
    config.train.checkpoint_every = 200
    config.evaluation.samples = 1000
    config.evaluation.max_tokens = 48
    config.evaluation.batch_size = 32
    return config
