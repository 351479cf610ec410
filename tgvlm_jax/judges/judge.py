"""The one interface of all judges, what a language model is asked, and a judge that needs none.

A judge sees a question, its right answer and what was observed, no pixels and no thoughts, and says
whether the answer follows from the observation alone (VideoP2R 2.2). It serves the CoT pipeline
(step 3) and the perception reward alike. A case without a verdict, for whatever reason, counts as
not sufficient and says why.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

from tgvlm_jax.text import porter, rouge


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What is judged; `answer` is the right one, `data_type` "video" or "image"."""

    question: str
    answer: str
    observation: str
    data_type: str = "video"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """`failure` says why there is none; "" where the judge has decided.

    `lost`: the judge could not be asked, so that another time may bring a verdict.
    """

    sufficient: bool
    failure: str = ""
    lost: bool = False


Judge = Callable[[Sequence[Case]], list[Verdict]]
"""A verdict on each case, from any thread; never raises because of one of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reply:
    """What a language model said to a prompt; `failure` says why it said nothing."""

    text: str
    failure: str = ""


Complete = Callable[[Sequence[str]], list[Reply]]
"""Texts out of prompts: `http.Chat` and `train.local_model.LocalModel` are such."""


_PROMPT = """\
You are given a question about {a} {kind}, its correct answer, and written observations of the \
{kind}. You cannot see the {kind}.

Question: {question}
CorrectAnswer: {answer}
Observations: {observation}

Decide whether the correct answer can be deduced from the observations alone. Take nothing for \
granted that they do not say.
1. Read the question and the correct answer.
2. Explain in a sentence or two whether, and how, the observations support the answer.
3. End with your verdict, Yes or No, in this form: <judgement>Yes</judgement> or \
<judgement>No</judgement>."""
_VERDICT = re.compile(r"<judgement>\s*(yes|no)\s*</judgement>", re.IGNORECASE)


def prompt(case: Case) -> str:
    """What a language model is asked."""
    kind = "image" if case.data_type == "image" else "video"
    return _PROMPT.format(
        a="an" if kind == "image" else "a",
        kind=kind,
        question=case.question.strip(),
        answer=case.answer.strip(),
        observation=case.observation.strip(),
    )


def read_verdict(text: str) -> bool | None:
    """The last verdict of a reply; None without one."""
    found = _VERDICT.findall(text)
    return found[-1].lower() == "yes" if found else None


class ModelJudge:
    """A language model that judges; a reply without a verdict is asked for once more."""

    def __init__(self, complete: Complete, *, again: Complete | None = None):
        """`again` completes the second time, where a kept reply must not come back."""
        self._complete, self._again = complete, again or complete

    def __call__(self, cases: Sequence[Case]) -> list[Verdict]:
        """A verdict on each case."""
        asked = [prompt(case) for case in cases]
        found = [_verdict(reply) for reply in self._complete(asked)]
        unread = [n for n, one in enumerate(found) if one is None]
        second = self._again([asked[n] for n in unread]) if unread else []
        told = dict(zip(unread, map(_verdict, second), strict=True))
        none = Verdict(sufficient=False, failure="the reply has no verdict")
        return [one or told[n] or none for n, one in enumerate(found)]


def _verdict(reply: Reply) -> Verdict | None:
    if reply.failure:
        return Verdict(sufficient=False, failure=reply.failure, lost=True)
    said = read_verdict(reply.text)
    return None if said is None else Verdict(sufficient=said)


# Words that an answer may have and an observation lack.
_SMALL = frozenset(
    re.findall(
        r"\w+",
        """a an and are as at be been by do does for from had has have he her his in into is it its
        of on or she so some than that the their them then there they this to was were what when
        where which who will with""",
    )
)
_OPTION = re.compile(r"^\s*\(?([A-Z])[.):]\s*(.+?)\s*$", re.MULTILINE)


def options(question: str) -> dict[str, str]:
    """The texts of a question's options by their letters."""
    return dict(_OPTION.findall(question))


def words(cases: Sequence[Case]) -> list[Verdict]:
    """Sufficient where every word of the answer that counts occurs in the observation, stemmed.

    Of a letter it is the text of the option that counts. An answer without such a word, such as a
    bare letter without options, cannot be deduced.
    """
    return [Verdict(sufficient=_observed(case)) for case in cases]


def _observed(case: Case) -> bool:
    answer = case.answer.strip()
    answer = options(case.question).get(answer.rstrip(".)").lstrip("("), answer)
    if re.fullmatch(r"\(?[A-Z]\)?\.?", answer):
        return False
    wanted = {_stem(word) for word in rouge.tokens(answer) if word not in _SMALL}
    seen = {_stem(word) for word in rouge.tokens(case.observation)}
    return bool(wanted) and wanted <= seen


def _stem(word: str) -> str:
    return porter.stem(word) if len(word) > 3 else word
