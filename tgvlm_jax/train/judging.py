"""Opens the judge that a config names, and the language models that judge or write."""

import os
from collections.abc import Callable
from pathlib import Path

from tgvlm_jax.judges import http, judge
from tgvlm_jax.judges.judge import Judge, ModelJudge
from tgvlm_jax.schema import JudgeConfig
from tgvlm_jax.train.local_model import open_local


class OpenedJudge:
    """A judge that holds threads or a model until it is closed."""

    def __init__(self, judge: Judge, *, close: Callable[[], None] | None = None):
        self.judge, self._close = judge, close

    def close(self) -> None:
        """Lets go of them."""
        if self._close is not None:
            self._close()


def open_judge(config: JudgeConfig) -> OpenedJudge:
    """Raises InputError where its endpoint, cache or checkpoint cannot be used."""
    if config.kind == "http":
        client = open_endpoint(config)
        return OpenedJudge(ModelJudge(client, again=client.again), close=client.close)
    if config.kind == "local":
        model = open_local(Path(config.checkpoint), max_tokens=config.max_tokens)
        return OpenedJudge(ModelJudge(model))
    return OpenedJudge(judge.words)


def open_endpoint(config: JudgeConfig) -> http.Chat:
    """The client of an endpoint; raises InputError where its URL or cache cannot be used."""
    return http.Chat(
        http.Settings(
            url=config.url,
            model=config.model,
            key=os.environ.get(config.key_variable, ""),
            max_tokens=config.max_tokens,
            timeout=config.timeout,
            retries=config.retries,
            concurrency=config.concurrency,
            cache=config.cache,
            budget=config.budget,
        )
    )
