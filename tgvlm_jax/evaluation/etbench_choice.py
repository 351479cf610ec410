"""E.T. Bench: multiple choice (rar, eca, rvq) and grounded questions (gvq), four scorings.

An answer is first searched for a letter, then compared with all options by sentence similarity:

| | original | strict_rvq | new | looser |
|---|---|---|---|---|
| "(X)" anywhere | counts if right | decides | not seen | not seen |
| leading letter | counts if right | decides | decides | counts if right |
| else | most similar option | most similar | most similar | most similar |

"Counts if right" means that a wrong letter is overlooked and the text may still win. `new` and
`looser` see only what stands after the last delimiter.
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from tgvlm_jax.evaluation.etbench_answers import DELIMITER, Grounded, ScriptAborts, grounded, spans
from tgvlm_jax.evaluation.etbench_data import EtSample
from tgvlm_jax.evaluation.etbench_grounding import (
    GroupScores,
    Metrics,
    Variant,
    answer_of,
    overlap,
    recall_metrics,
    rounded,
    two_parts,
)
from tgvlm_jax.evaluation.similarity import Similarity

_LETTERS = "abcde"
_PREFIX = "best option:"
_IN_PARENTHESES = re.compile(r"\(([a-zA-Z])\)")
_AFTER_LETTER = (".", ",", " ", ")")
_TINY = 1e-7


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """What an answer chooses.

    Attributes:
        option: index of the option that a letter decided for; None where texts decide.
        text: what is compared with the options; "" is a failure.
        matched: a letter was found.
    """

    option: int | None
    text: str
    matched: bool


def score_choice(
    samples: Sequence[EtSample], variant: Variant, *, similarity: Similarity
) -> GroupScores:
    """rar, eca, rvq: Total, Failed, Acc; `new` and `looser` add how often a letter was found.

    The number of letters is that of the first sample's options, as published.
    """
    letters = _LETTERS[: len(samples[0].options)]
    choices = [choose(sample, variant, letters=letters) for sample in samples]
    hits = _hits(samples, choices, similarity)
    matched = [choice.matched for choice in choices]
    metrics: Metrics = {"Total": len(samples), "Failed": len(samples) - sum(matched)}
    metrics["Acc"] = round(sum(hits) / len(samples), 5)
    if two_parts(variant):
        right = sum(hit and found for hit, found in zip(hits, matched, strict=True))
        metrics["Matched_count"] = sum(matched)
        metrics["matched_ratio"] = sum(matched) / len(samples)
        metrics["correct_ratio_within_matched"] = right / (sum(matched) + _TINY)
    return GroupScores(metrics=metrics)


def choose(sample: EtSample, variant: Variant, *, letters: str) -> Choice:
    """The choice of one answer to a multiple-choice question."""
    text = answer_of(sample)
    lenient = variant in ("original", "looser")
    matched = False
    if two_parts(variant):
        text = text.split(DELIMITER)[-1]
    elif found := _IN_PARENTHESES.search(text):
        option = letters.find(found[1].lower())
        matched = True
        if option == sample.option or (option >= 0 and not lenient):
            return Choice(option=option, text=text, matched=True)
    text = _bare(text.lower())
    if _leads_with_letter(text):
        option = letters.find(text[0])
        if option == sample.option or (option >= 0 and not lenient):
            return Choice(option=option, text=text, matched=True)
        matched = matched or not two_parts(variant)
    return Choice(option=None, text=text, matched=matched and bool(text))


def _bare(text: str) -> str:
    """Without the leading "Best Option:" and opening parentheses."""
    if text.lower().startswith(_PREFIX):
        text = text[len(_PREFIX) :]
    return text.lstrip().lstrip("(").strip()


def _leads_with_letter(text: str) -> bool:
    return len(text) == 1 or (len(text) > 1 and text[1] in _AFTER_LETTER)


def _hits(
    samples: Sequence[EtSample], choices: Sequence[Choice], similarity: Similarity
) -> list[bool]:
    """Whether each choice is right; texts are compared with all options, the first best wins."""
    open_ones = [i for i, choice in enumerate(choices) if choice.option is None and choice.text]
    left = [choices[i].text for i in open_ones for _ in samples[i].options]
    right = [
        f"({letter}) {option}"
        for i in open_ones
        for letter, option in zip("ABCDE", samples[i].options, strict=False)
    ]
    scores = similarity.pairs(left, right)
    counts = [len(samples[i].options) for i in open_ones]
    parts = np.split(scores, np.cumsum(counts)[:-1]) if counts else []
    chosen = {i: int(np.argmax(part)) for i, part in zip(open_ones, parts, strict=True)}
    return [
        (choice.option if choice.option is not None else chosen.get(i)) == sample.option
        for i, (sample, choice) in enumerate(zip(samples, choices, strict=True))
    ]


def score_grounded_choice(
    samples: Sequence[EtSample], variant: Variant, *, similarity: Similarity
) -> GroupScores:
    """gvq: a right option and the overlap of the first span count together.

    Returns Total, Failed (no answer, or right but without a span), mIoU, R@t, mRec, Acc; `new` and
    `looser` add the figures of the evidence and of letters found.
    """
    choices = [_final_choice(sample, variant) for sample in samples]
    hits = _hits(samples, choices, similarity)
    aborted: list[str] = []
    ious: list[float] = []
    evidence: list[float] = []
    failed = sum(not choice.text for choice in choices)
    for sample, hit in zip(samples, hits, strict=True):
        if not hit:
            continue
        try:
            found = _spans_of(sample, variant)
        except ScriptAborts as error:
            found = None
            aborted.append(f"gvq {sample.source} {sample.index}: {error}")
        if found is None or found.answer is None:
            failed += 1
            continue
        ious.append(float(overlap(found.answer[:1], sample.spans)[0, 0]))
        evidence.append(float(overlap((found.evidence or [(0, 0)])[:1], sample.spans)[0, 0]))
    count = len(samples)
    metrics: Metrics = {"Total": count, "Failed": failed}
    metrics |= rounded(recall_metrics(ious, count, name="R"))
    if two_parts(variant):
        metrics |= rounded(recall_metrics(evidence, count, name="R", suffix="_evi"))
    metrics["Acc"] = round(sum(hits) / count, 5)
    if two_parts(variant):
        metrics |= _letter_counts(choices, hits)
    return GroupScores(metrics=metrics, aborted=tuple(aborted))


def _letter_counts(choices: Sequence[Choice], hits: Sequence[bool]) -> Metrics:
    matched = sum(choice.matched for choice in choices)
    right = sum(c.matched and hit for c, hit in zip(choices, hits, strict=True))
    return {
        "Matched count": matched,
        "Matched ratio": matched / len(choices),
        "correct count within matched": right,
        "correct ratio within matched": right / (matched + _TINY),
    }


def _final_choice(sample: EtSample, variant: Variant) -> Choice:
    text = answer_of(sample)
    text = _bare(text.split(DELIMITER)[-1] if two_parts(variant) else text)
    if _leads_with_letter(text):
        option = _LETTERS[: len(sample.options)].find(text[0].lower())
        if option >= 0:
            return Choice(option=option, text=text, matched=True)
    return Choice(option=None, text=text, matched=False)


def _spans_of(sample: EtSample, variant: Variant) -> Grounded:
    if two_parts(variant):
        return grounded(answer_of(sample))
    return Grounded(answer=spans(answer_of(sample)), evidence=None)
