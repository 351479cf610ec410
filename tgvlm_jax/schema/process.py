"""Process-aware rewards (VideoP2R) and who judges what was observed."""

import dataclasses
from typing import Literal

from tgvlm_jax.schema.checks import positive
from tgvlm_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Who says whether the right answer follows from an observation alone (VideoP2R 2.2).

    Attributes:
        kind: "words": every word of the right answer, or of the option it names, is observed;
            nothing is asked. "http": a language model behind an OpenAI-compatible endpoint.
            "local": one of our own checkpoints, asked in text alone.
        url: of the endpoint, up to and with "/v1". model: the name it has there.
        key_variable: environment variable that holds the key; none is sent where it is not set.
        checkpoint: work folder of the local model.
        max_tokens: longest verdict. timeout: seconds a whole reply may take.
        retries: further attempts after a failure. concurrency: requests at a time.
        cache: folder in which replies are kept, so that none is paid for twice; "" keeps none.
        budget: requests in all, after which every case is a failure; 0 sets no bound.
    """

    kind: Literal["words", "http", "local"] = "words"
    url: str = ""
    model: str = ""
    key_variable: str = "OPENAI_API_KEY"
    checkpoint: str = ""
    max_tokens: int = 512
    timeout: float = 60.0
    retries: int = 3
    concurrency: int = 8
    cache: str = ""
    budget: int = 0

    def __post_init__(self):
        positive(self, "max_tokens", "concurrency")
        if self.kind == "http" and not (self.url and self.model):
            raise InputError("judge.kind='http' needs judge.url and judge.model")
        if self.kind == "local" and not self.checkpoint:
            raise InputError("judge.kind='local' needs judge.checkpoint, a work folder")
        if self.timeout <= 0 or self.retries < 0 or self.budget < 0:
            raise InputError(
                f"judge: timeout={self.timeout}, retries={self.retries}, budget={self.budget}: "
                "above 0, and 0 or more"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessConfig:
    """Rewards of what was perceived and of what was concluded, apart (VideoP2R 4 and 5).

    Attributes:
        advantages: "separate" compares each segment's rewards within the group and gives them to
            its own tokens (PA-GRPO). The others give one advantage to all tokens: "joint" of the
            summed rewards (the paper's "w/o separation"), "reasoning" of that segment's reward
            alone (plain GRPO, "w/o R_P"), "perception" of the other's ("w/o R_R").
        length: "segment" rewards right, well-formed segments of some length; "group" right whole
            answers where enough of the group are, as Video-R1 does; "none" is "w/o R_L".
        perception_tokens, reasoning_tokens: lengths that are rewarded, both ends included.
        segment_norm: "sequence" divides a token's loss by the length of its answer, as the lineage
            of the code does; "segment" by that of its segment, the letter of equation 7.
        judge: of the perception's accuracy.
    """

    advantages: Literal["separate", "joint", "reasoning", "perception"] = "separate"
    length: Literal["segment", "group", "none"] = "segment"
    perception_tokens: tuple[int, int] = (128, 320)
    reasoning_tokens: tuple[int, int] = (320, 512)
    segment_norm: Literal["sequence", "segment"] = "sequence"
    judge: JudgeConfig = JudgeConfig()

    def __post_init__(self):
        for name in ("perception_tokens", "reasoning_tokens"):
            least, most = getattr(self, name)
            if not 0 <= least <= most:
                raise InputError(f"{name}=({least}, {most}): give the least and the most")
