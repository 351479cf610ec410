"""Questions about rendered episodes, as E.T. Instruct records of the `<evi>` flavour.

Three kinds: grounding (`tvg`: when does the agent carry the red ball?), dense captioning (`dvc`:
what does it do, and when?) and referring (`rar`: what does it do in `<evi>`?).
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tgvlm_jax.data.annotations import EVIDENCE, EVIDENCE_END, VIDEO
from tgvlm_jax.data.games import COLORS, KINDS, OBJECTS, Episode, Event
from tgvlm_jax.data.templates import TEMPLATES
from tgvlm_jax.grounding import baselines
from tgvlm_jax.grounding import spans as span_lib
from tgvlm_jax.types import InputError

SOURCE = "minigrid"
_ASKED = {
    "carry": "carry the {}",
    "open": "hold the {} open",
    "wait": "wait at the {}",
    "walk": "walk to the {}",
}
_SAID = {
    "carry": "carries the {}",
    "open": "holds the {} open",
    "wait": "waits at the {}",
    "walk": "walks to the {}",
}
# What happens altogether is the hardest to say: to train on it is asked in several ways, and of the
# other kinds there are a few a film.
_MOST = {"tvg": 2, "rar": 1}
_LISTS = (
    "What does the agent do, and when?",
    "Tell everything the agent does, with its time.",
    "List what happens in this video and when it happens.",
)
_REFER = f"What does the agent do in {EVIDENCE}?"


def check_kinds(kinds: Sequence[str]) -> None:
    """Raises InputError for what is no kind of event, or none at all."""
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"kinds: {kind!r} is not one of {', '.join(KINDS)}")
    if not kinds:
        raise InputError(f"kinds: name at least one of {', '.join(KINDS)}")


def records(episode: Episode, *, video: str, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """All questions about one episode.

    Grounding asks for an event that comes once and beside which there is another of its kind, so
    that neither the verb alone nor "the first thing that happens" gives the time away.

    Args:
        video: path of its film below the folder of videos.
        kinds: events that are asked about.
    """
    known = [one for one in episode.events if one.kind in kinds]
    duration = episode.duration
    made = [_grounding(one) for one in known if _fair(one, known)]
    if known:
        made += [_captioning(known, asked) for asked in _LISTS]
    made += [_referring(one) for one in known]
    shared = {"source": SOURCE, "video": video, "duration": duration}
    return [{"task": one.pop("task"), **shared, **one} for one in made]


def few(asked: Sequence[dict[str, Any]], *, rng: np.random.Generator) -> list[dict[str, Any]]:
    """What of one episode's questions is trained on, the kinds in balance."""
    chosen = []
    for task in dict.fromkeys(one["task"] for one in asked):
        mine = [one for one in asked if one["task"] == task]
        chosen += [mine[n] for n in rng.permutation(len(mine))[: _MOST.get(task, len(mine))]]
    return chosen


def once(asked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What of one episode's questions is evaluated on: captions in one wording."""
    first = next((one for one in asked if one["task"] == "dvc"), None)
    return [one for one in asked if one["task"] != "dvc" or one is first]


def _fair(event: Event, known: Sequence[Event]) -> bool:
    same = [one.target for one in known if one.kind == event.kind]
    return same.count(event.target) == 1 and len(set(same)) > 1


def _grounding(event: Event) -> dict[str, Any]:
    asked, said = (words[event.kind].format(event.target) for words in (_ASKED, _SAID))
    answer = f"{EVIDENCE}{EVIDENCE_END} It {said} in {EVIDENCE}."
    return _record("tvg", f"When does the agent {asked}?", answer, tgt=[event.start, event.end])


def _captioning(events: Sequence[Event], asked: str) -> dict[str, Any]:
    said = "".join(f" {EVIDENCE} {_SAID[one.kind].format(one.target)}." for one in events)
    answer = f"{EVIDENCE * len(events)}{EVIDENCE_END}{said}"
    return _record("dvc", asked, answer, tgt=[t for one in events for t in (one.start, one.end)])


def _referring(event: Event) -> dict[str, Any]:
    answer = f"{EVIDENCE_END} It {_SAID[event.kind].format(event.target)}."
    return _record("rar", _REFER, answer, src=[event.start, event.end])


def _record(task: str, question: str, answer: str, **times: list[float]) -> dict[str, Any]:
    # The film comes after the question, so that its frames are seen with the question in mind; but
    # a question that points into the film comes after it.
    asked = f"{VIDEO}\n{question}" if EVIDENCE in question else f"{question}\n{VIDEO}"
    turns = [
        {"from": "human", "value": asked},
        {"from": "gpt", "value": answer},
    ]
    return {"task": task, **times, "conversations": turns}


def sentences() -> list[str]:
    """Every text that can be asked or answered, for a tokenizer."""
    names = [f"{color} {thing}" for color in COLORS for thing in (*OBJECTS, "door")]
    found = [TEMPLATES["phi3"].before(), *_LISTS, _REFER]
    for kind in KINDS:
        for name in names:
            if (kind == "open") <= name.endswith("door"):
                event = Event(kind=kind, target=name, start=0.0, end=1.0)
                turns = (
                    _grounding(event)["conversations"]
                    + _captioning([event], _LISTS[0])["conversations"]
                )
                found += [turn["value"].replace(VIDEO, "").strip() for turn in turns]
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blind:
    """What answers earn that never look at the film.

    Attributes:
        mean_iou, recall: of the best constant interval on the grounding questions, chosen with
            their truth at hand; recall at an IoU of 0.5.
        by_kind: mean IoU when it may depend on the verb.
        captions: F1 at an IoU of 0.5 of the best number of equal parts of the film.
        referring: share of the most frequent answer.
    """

    mean_iou: float
    recall: float
    by_kind: float
    captions: float
    referring: float


def blind(found: Sequence[dict[str, Any]]) -> Blind:
    """The blind baselines of a list of records."""
    tasks = collections.defaultdict(list)
    for one in found:
        tasks[one["task"]].append(one)
    grounding, verbs = tasks["tvg"], collections.defaultdict(list)
    for one in grounding:
        verbs[one["conversations"][0]["value"].partition("the agent ")[2].split()[0]].append(one)
    ious = _constant_ious(grounding)
    by_kind = np.concatenate([_constant_ious(part) for part in verbs.values()])
    answers = collections.Counter(one["conversations"][1]["value"] for one in tasks["rar"])
    return Blind(
        mean_iou=float(ious.mean()),
        recall=span_lib.recall_at(ious, 0.5),
        by_kind=float(by_kind.mean()),
        captions=max(_equal_parts(tasks["dvc"], count) for count in range(1, 9)),
        referring=max(answers.values()) / sum(answers.values()),
    )


def _constant_ious(found: Sequence[dict[str, Any]]) -> np.ndarray:
    truths = np.array([one["tgt"] for one in found], np.float64).reshape(-1, 1, 2)
    durations = np.array([one["duration"] for one in found], np.float64)
    span = baselines.best_constant_span(truths, durations)
    return baselines.constant_ious(truths, durations, span=span)


def _equal_parts(found: Sequence[dict[str, Any]], count: int) -> float:
    """F1 at 0.5, pooled over the films, of cutting each into so many parts."""
    hits = truths = 0
    for one in found:
        spans = np.reshape(one["tgt"], (-1, 2)).astype(np.float64)
        edges = np.linspace(0.0, one["duration"], count + 1)
        parts = np.stack([edges[:-1], edges[1:]], axis=1)
        hits += int(np.sum(span_lib.match(parts, spans).ious >= 0.5))
        truths += len(spans)
    return 2 * hits / (truths + count * len(found))
