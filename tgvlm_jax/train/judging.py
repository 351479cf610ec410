"""Opens the judge that a config names."""

from tgvlm_jax.judges import judge
from tgvlm_jax.judges.judge import Judge
from tgvlm_jax.schema import JudgeConfig


def open_judge(config: JudgeConfig) -> Judge:
    """Raises InputError where its endpoint, key or checkpoint cannot be used."""
    return judge.words
