"""E.T. Bench: dense captioning (dvc, slc): detection of events and quality of their captions.

Captions are compared where spans overlap by more than a threshold; a prediction that overlaps no
truth is compared with 10 to 20 random letters. Only sentence similarity notices which letters
(0.001 from seed to seed), and one constant text for all would move it by 0.01 and more. As
published, answers that cannot be read lower detection but not caption quality, and a repeated video
keeps its last answer.
"""

import contextlib
import dataclasses
import random
import string
from collections.abc import Mapping, Sequence

import numpy as np

from tgvlm_jax.evaluation.captioning import CaptionMetrics
from tgvlm_jax.evaluation.etbench_answers import Events, ScriptAborts, events, grounded_events
from tgvlm_jax.evaluation.etbench_data import EtSample
from tgvlm_jax.evaluation.etbench_grounding import (
    THRESHOLDS,
    GroupScores,
    Metrics,
    Variant,
    answer_of,
    rounded,
    two_parts,
)
from tgvlm_jax.evaluation.records import Span
from tgvlm_jax.evaluation.similarity import Similarity

FILLER = "zqxjkvwpzqxj"  # has no word in common with any caption

Pair = tuple[str, str]  # prediction, reference; tokenised


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionScorers:
    """What compares captions.

    Attributes:
        similarity: of sentences. metrics: of captions; without them detection alone is scored.
        filler: what a prediction that overlaps no truth is compared with; None draws letters, the
            same ones in every run.
    """

    similarity: Similarity
    metrics: CaptionMetrics | None
    filler: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionedVideo:
    """Events of one video: predicted, true, and the spans of the evidence."""

    found: Events
    truth: Sequence[Span]
    captions: Sequence[str]


def score_dense_captions(
    samples: Sequence[EtSample], variant: Variant, *, scorers: CaptionScorers
) -> GroupScores:
    """Total, Failed, F1@t and F1 of detection, then the caption metrics, each a mean over t.

    Caption metrics are left out where `scorers` has none.
    """
    videos: dict[str, CaptionedVideo] = {}
    aborted: list[str] = []
    failed = 0
    for sample in samples:
        try:
            found = _events(sample, variant)
        except ScriptAborts as error:
            found = None
            aborted.append(f"{sample.task} {sample.source} {sample.index}: {error}")
        if found is None:
            failed += 1
        else:
            videos[sample.video] = CaptionedVideo(
                found=found, truth=sample.spans, captions=sample.captions
            )
    metrics: Metrics = {"Total": len(samples), "Failed": failed}
    scale = len(videos) / len(samples)
    metrics |= _detection(videos, scale=scale, suffix="")
    if two_parts(variant):
        metrics |= _detection(videos, scale=scale, suffix="_evi")
    if scorers.metrics:
        metrics |= _Captions(scorers.metrics, scorers).means(list(videos.values()))
    return GroupScores(metrics=rounded(metrics), aborted=tuple(aborted))


def _events(sample: EtSample, variant: Variant) -> Events | None:
    return (grounded_events if two_parts(variant) else events)(answer_of(sample))


def prepare(samples: Sequence[EtSample], variant: Variant, *, metrics: CaptionMetrics) -> None:
    """Tokenises all captions, true and predicted, at once."""
    texts = {FILLER}
    for sample in samples:
        texts.update(sample.captions)
        with contextlib.suppress(ScriptAborts):
            found = _events(sample, variant)
            texts.update(found.captions if found else ())
    metrics.learn(map(_ascii, texts))


def _ascii(text: str) -> str:
    return "".join(letter if letter.isascii() else " " for letter in text)


def capped_overlap(a: Span, b: Span) -> float:
    """IoU whose union is no longer than both spans together; double precision."""
    inside = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    hull = max(a[1], b[1]) - min(a[0], b[0])
    return inside / (min(hull, a[1] - a[0] + b[1] - b[0]) + 1e-8)


def _detection(videos: Mapping[str, CaptionedVideo], *, scale: float, suffix: str) -> Metrics:
    scores: dict[float, float] = {}
    for threshold in THRESHOLDS:
        shares = [_covered(video, threshold, evidence=bool(suffix)) for video in videos.values()]
        precision, recall = (np.mean(shares, axis=0) * scale).tolist() if shares else (0.0, 0.0)
        both = precision + recall
        scores[threshold] = 2 * precision * recall / both if both else 0.0
    mean = sum(scores.values()) / len(scores)
    return {f"F1{suffix}@{t}": value for t, value in scores.items()} | {f"F1{suffix}": mean}


def _covered(video: CaptionedVideo, threshold: float, *, evidence: bool) -> list[float]:
    """Share of predictions over a truth, share of truths under a prediction; strictly above t."""
    predicted = video.found.evidence if evidence else video.found.spans
    if not predicted:
        return [0.0, 0.0]
    hits = [[capped_overlap(a, b) > threshold for b in video.truth] for a in predicted]
    return [
        float(np.mean([any(row) for row in hits])),
        float(np.mean([any(column) for column in zip(*hits, strict=True)])),
    ]


class _Captions:
    """Caption metrics of videos; each pair of sentences is embedded once."""

    def __init__(self, metrics: CaptionMetrics, scorers: CaptionScorers):
        self._metrics, self._scorers = metrics, scorers

    def means(self, videos: Sequence[CaptionedVideo]) -> Metrics:
        """Bleu_1 to Bleu_4, METEOR, ROUGE_L, CIDEr, SentSim: means over videos, then over t."""
        names = [*(f"Bleu_{order}" for order in range(1, 5)), "METEOR", "ROUGE_L", "CIDEr"]
        names.append("SentSim")
        if not videos:
            return dict.fromkeys(names, 0.0)
        groups = [[self._pairs(video, threshold) for video in videos] for threshold in THRESHOLDS]
        similar = self._similarities(
            {pair for group in groups for pairs in group for pair in pairs}
        )
        each = [[self._video(pairs, similar) for pairs in group] for group in groups]
        means = [{name: np.mean([one[name] for one in group]) for name in names} for group in each]
        return {name: float(np.mean([mean[name] for mean in means])) for name in names}

    def _pairs(self, video: CaptionedVideo, threshold: float) -> list[Pair]:
        pairs: list[Pair] = []
        for span, caption in zip(video.found.spans, video.found.captions, strict=True):
            matched = [
                reference
                for truth, reference in zip(video.truth, video.captions, strict=True)
                if capped_overlap(span, truth) >= threshold
            ]
            pairs += [(self._words(caption), self._words(text)) for text in matched or [FILLER]]
        return pairs

    def _words(self, text: str) -> str:
        return self._metrics.tokenised(_ascii(text))

    def _similarities(self, pairs: set[Pair]) -> Mapping[Pair, float]:
        ordered = sorted(pairs)
        letters = random.Random(0)
        right = [
            (self._scorers.filler or _drawn(letters)) if reference == FILLER else reference
            for _, reference in ordered
        ]
        found = self._scorers.similarity.pairs([pair[0] for pair in ordered], right)
        return dict(zip(ordered, found.tolist(), strict=True))

    def _video(self, pairs: Sequence[Pair], similar: Mapping[Pair, float]) -> Metrics:
        left, right = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        bleu = self._metrics.bleu(left, right)
        found = {f"Bleu_{order + 1}": float(value) for order, value in enumerate(bleu)}
        found["METEOR"] = self._metrics.meteor(left, right).together
        found["ROUGE_L"] = self._metrics.rouge_l(left, right).together
        found["CIDEr"] = self._metrics.cider(left, right).together
        found["SentSim"] = float(np.mean([similar[pair] for pair in pairs]))
        return found


def _drawn(letters: random.Random) -> str:
    return "".join(letters.choices(string.ascii_lowercase, k=letters.randint(10, 20)))
