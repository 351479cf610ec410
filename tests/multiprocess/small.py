"""The smallest run that several processes can make; `grpo` for the one with rewards."""

from tgvlm_jax.config import parse_arg, to_config_dict
from tgvlm_jax.schema import (
    DataConfig,
    DecoderConfig,
    EvidenceConfig,
    Experiment,
    GrpoConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    PolicyConfig,
    SftConfig,
    TinyVitConfig,
    TrainConfig,
)


def get_config(arg=None):
    args = parse_arg(arg, grpo=False)
    objective = SftConfig()
    if args.grpo:
        objective = GrpoConfig(
            reward="grounding",
            num_generations=4,
            max_tokens=8,
            spans=1.0,
            rollout_size=8,
            reference="copy",
            policy=PolicyConfig(kl=0.1),
        )
    return to_config_dict(
        Experiment(
            seed=9,
            model=ModelConfig(
                tower=TinyVitConfig(
                    height=24,
                    width_px=32,
                    patch=8,
                    cell_width=8,
                    width=16,
                    heads=2,
                    hidden=32,
                ),
                decoder=DecoderConfig(
                    width=16, layers=2, heads=4, kv_heads=2, head_size=8, hidden=32
                ),
                evidence=EvidenceConfig(bank_layer=1),
            ),
            data=DataConfig(
                fps=8,
                batch_size=16 if args.grpo else 8,
                frames=(4,),
                kinds=("invert", "grayscale"),
                train_span=(0.0, 1.0),
                prompt_bucket=64,
                threads=1,
                prefetch=2,
            ),
            objective=objective,
            optim=OptimConfig(warmup_steps=2),
            train=TrainConfig(steps=3, log_every=1, checkpoint_every=4),
            mesh=MeshConfig(fsdp=-1),
        )
    )
