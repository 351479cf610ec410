"""Ego-Exo4D's annotations in their own JSON: who did how well, and what experts said of it.

    proficiency_demonstrator_{train,val}.json
        {"annotations": [{"take_uid", "scenario_name", "video_paths": {"ego", "exo1", ...},
                          "proficiency_score"}, ...]}
    expert_commentary_{train,val}.json
        {"annotations": {take_uid: [{"commentary_data": [{"text", "error"}, ...]}, ...]}}

An expert's remarks on a take, in the order of the file, make up one commentary (ProfVLM 3.2). A
record that is damaged is listed with the reason and never stops the rest.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tgvlm_jax.data import record_files
from tgvlm_jax.data.annotations import Rejected
from tgvlm_jax.types import InputError

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*(?=\s|$)")
# The authors' rule: a word in the path, in this order and this spelling; all else is music.
_KEYWORDS = ("basketball", "cooking", "dance", "bouldering", "soccer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Take:
    """One performance.

    Attributes:
        where: file and number of the record. uid: of the take.
        paths: of its videos by view; a view that was not filmed is not there.
        level: one of the labels.
        commentaries: one text for each expert.
    """

    where: str
    uid: str
    scenario: str
    paths: Mapping[str, str]
    level: str
    commentaries: tuple[str, ...] = ()

    def keyword(self) -> str:
        """The scenario that the authors' tables count it to (ProfVLM 3.2)."""
        paths = " ".join(self.paths.values())
        return next((word for word in _KEYWORDS if word in paths), "music")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Takes:
    """What a pair of files holds; `rejected` are damaged records of both."""

    kept: list[Take]
    rejected: list[Rejected]


def load(path: Path, commentary: Path | None = None, *, levels: Sequence[str]) -> Takes:
    """Takes with their level, and with what experts said where there is such a file.

    Raises:
        InputError: a file is missing, no JSON or of another form, or there is not a single good
            record in it.
    """
    rejected: list[Rejected] = []
    said = {} if commentary is None else _commentaries(commentary, rejected)
    records = _annotations(path, list)
    kept, known = [], set()
    for number, record in enumerate(records):
        where = f"{path.name}, record {number}"
        try:
            take = parse(record, where=where, levels=levels)
            if take.uid in known:
                raise InputError(f"take {take.uid!r} is there twice")
        except InputError as error:
            rejected.append(Rejected(where=where, reason=str(error)))
            continue
        known.add(take.uid)
        kept.append(dataclasses.replace(take, commentaries=said.get(take.uid, ())))
    if not kept:
        first = f"; {rejected[0].where}: {rejected[0].reason}" if rejected else ""
        raise InputError(f"{path}: no usable take among {len(records)} records{first}")
    return Takes(kept=kept, rejected=rejected)


def parse(record: Any, *, where: str, levels: Sequence[str]) -> Take:
    """One proficiency record.

    Raises:
        InputError: a field is missing or of another kind; the level is none of `levels`.
    """
    if not isinstance(record, dict):
        raise InputError(f"a record is an object, found {_kind(record)}")
    paths = record.get("video_paths")
    if not isinstance(paths, dict):
        raise InputError(f"'video_paths' must be an object, found {_kind(paths)}")
    named = {view: path for view, path in paths.items() if path is not None}
    for view, path in named.items():
        if not isinstance(path, str) or not path:
            raise InputError(f"'video_paths' has no path for {view!r}, but {_kind(path)}")
    if not named:
        raise InputError("'video_paths' names no video")
    level = _text(record, "proficiency_score")
    if level not in levels:
        raise InputError(f"'proficiency_score' {level!r} is none of {', '.join(levels)}")
    return Take(
        where=where,
        uid=_text(record, "take_uid"),
        scenario=_text(record, "scenario_name"),
        paths=named,
        level=level,
    )


def _commentaries(path: Path, rejected: list[Rejected]) -> dict[str, tuple[str, ...]]:
    found = {}
    for uid, experts in _annotations(path, dict).items():
        texts = []
        for number, one in enumerate(experts if isinstance(experts, list) else [experts]):
            where = f"{path.name}, take {uid}, expert {number}"
            try:
                texts.append(_remarks(one))
            except InputError as error:
                rejected.append(Rejected(where=where, reason=str(error)))
        found[uid] = tuple(text for text in texts if text)
    return found


def _remarks(expert: Any) -> str:
    """All that one expert said of a take; what could not be transcribed is left out."""
    remarks = expert.get("commentary_data") if isinstance(expert, dict) else None
    if not isinstance(remarks, list):
        raise InputError(f"'commentary_data' must be a list, found {_kind(remarks)}")
    texts = []
    for one in remarks:
        if not isinstance(one, dict):
            raise InputError(f"'commentary_data' holds {_kind(one)}, not objects")
        if not one.get("error") and one.get("text") is not None:
            texts.append(_text(one, "text"))
    return " ".join(" ".join(texts).split())


def _annotations(path: Path, kind: type) -> Any:
    found = record_files.read_json(path)
    inside = found.get("annotations") if isinstance(found, dict) else None
    if not isinstance(inside, kind):
        wanted = "a list" if kind is list else "an object by take"
        raise InputError(f"{path}: 'annotations' must be {wanted}, found {_kind(inside)}")
    return inside


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{name!r} must be a text, found {_kind(value)}")
    return value.strip()


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", type(None): "nothing"}
    return kinds.get(type(value), f"a {type(value).__name__}")


# ------------------------------------------------------------------------- answers


def answer(level: str, commentary: str, *, label: Literal["first", "last"]) -> str:
    """The text that is learned (ProfVLM 2.5); without a commentary the level alone."""
    parts = [f"Proficiency: {level}"]
    if commentary:
        parts.insert(1 if label == "first" else 0, f"Analysis: {commentary}")
    return "\n".join(parts)


def cut(text: str, most: int) -> str:
    """As many whole sentences as end within `most` characters; words, where not even one does."""
    if len(text) <= most:
        return text
    end = max((one.end() for one in _SENTENCE_END.finditer(text) if one.end() <= most), default=0)
    return text[: end or max(0, text.rfind(" ", 0, most + 1))]
