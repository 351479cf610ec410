"""Every experiment setting with its default, as frozen dataclasses: the one home of defaults.

A file in `configs/` starts from `Experiment()` through `tgvlm_jax.config.to_config_dict`, changes
what it wants, and the command line may override any key. `tgvlm_jax.config.freeze` turns the
result back into an `Experiment`, and everything below the command line sees only that.
"""

from tgvlm_jax.schema.experiment import (
    ANOMALY_KINDS,
    MOST_PACKED,
    PRETEXT_KINDS,
    PRETEXT_TASKS,
    DataConfig,
    EvalConfig,
    Experiment,
    GroupConfig,
    MeshConfig,
    OptimConfig,
    TrainConfig,
)
from tgvlm_jax.schema.model import (
    CriticConfig,
    DecoderConfig,
    EvidenceConfig,
    LoraConfig,
    ModelConfig,
    RopeConfig,
)
from tgvlm_jax.schema.objective import (
    PERTURBATIONS,
    FpoConfig,
    GrpoConfig,
    PerturbationConfig,
    SamplingConfig,
    SftConfig,
)
from tgvlm_jax.schema.policy import AdvantageConfig, CreditConfig, PolicyConfig
from tgvlm_jax.schema.process import JudgeConfig, ProcessConfig
from tgvlm_jax.schema.takes import PROFICIENCY, TakesConfig
from tgvlm_jax.schema.towers import (
    CLIP_MEAN,
    CLIP_STD,
    CompressorConfig,
    EvaConfig,
    FrameEncoderConfig,
    ProjectorConfig,
    QformerConfig,
    QwenVisionConfig,
    TimesformerConfig,
    TinyVitConfig,
)
from tgvlm_jax.schema.turns import ImitateConfig, PpoConfig, TurnsConfig

__all__ = [
    "ANOMALY_KINDS",
    "CLIP_MEAN",
    "CLIP_STD",
    "MOST_PACKED",
    "PERTURBATIONS",
    "PRETEXT_KINDS",
    "PRETEXT_TASKS",
    "PROFICIENCY",
    "AdvantageConfig",
    "CompressorConfig",
    "CreditConfig",
    "CriticConfig",
    "DataConfig",
    "DecoderConfig",
    "EvaConfig",
    "EvalConfig",
    "EvidenceConfig",
    "Experiment",
    "FpoConfig",
    "FrameEncoderConfig",
    "GroupConfig",
    "GrpoConfig",
    "ImitateConfig",
    "JudgeConfig",
    "LoraConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimConfig",
    "PerturbationConfig",
    "PolicyConfig",
    "PpoConfig",
    "ProcessConfig",
    "ProjectorConfig",
    "QformerConfig",
    "QwenVisionConfig",
    "RopeConfig",
    "SamplingConfig",
    "SftConfig",
    "TakesConfig",
    "TimesformerConfig",
    "TinyVitConfig",
    "TrainConfig",
    "TurnsConfig",
]
