"""Process-aware traces out of questions: write, verify, judge; a job that may stop at any moment
(VideoP2R 2.1).

    1 write     a model observes, thinks and answers, every question once
    2 verify    observation, thoughts and answer in form; the answer's score at least 0.6
    3 judge     the right answer follows from the observation alone

A folder holds the job. `traces.jsonl` and `verdicts.jsonl` only grow, a line a record, and a line
that was cut off is dropped; `job.json` says of which questions and settings they are. What is
written is never written again, what is judged never judged again. A failure of a model (an endpoint
that is down) decides nothing about a record: the next run asks again. When all are decided, kept
records go to `NAME.json.gz` or its parts, dropped ones with their reasons to `dropped.jsonl`, and
the counts to `report.json`.
"""

import collections
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tgvlm_jax import files
from tgvlm_jax.data import process_records, record_files
from tgvlm_jax.data.process_records import ProcessRecord
from tgvlm_jax.judges.judge import Case, Judge
from tgvlm_jax.rewards import answers, videop2r
from tgvlm_jax.types import InputError

THRESHOLD = 0.6
"""The least score of a trace's answer by its question's metric (VideoP2R 2.1)."""
TRACES, VERDICTS, JOB = "traces.jsonl", "verdicts.jsonl", "job.json"
BAD_RECORD, NO_VIDEO, FORM = "bad record", "video cannot be read", "template"
WRONG, INSUFFICIENT = "answer", "observation"
REASONS = (BAD_RECORD, NO_VIDEO, FORM, WRONG, INSUFFICIENT)
_PATIENCE = 2  # batches in a row without any reply, after which the job stops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trace:
    """What a model wrote.

    Attributes:
        failure: why it wrote nothing this time. unreadable: why its video cannot be shown, which
            decides the record.
    """

    text: str = ""
    failure: str = ""
    unreadable: str = ""


Write = Callable[[Sequence[ProcessRecord], int], list[Trace]]
"""A trace for each record; the number is that of the batch's first record, to draw by."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """What a job has decided, and what it could not.

    Attributes:
        dropped: by reason. undecided: records whose model failed, to be asked again.
        why: the last of those failures.
    """

    records: int
    kept: int
    dropped: Mapping[str, int]
    undecided: int
    why: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Of a job.

    Attributes:
        name: of the files of kept records. parts: how many files. threshold: of step 2.
        batch: records written at a time; a job that goes on must have the same.
        about: whatever else decides the results, such as the models; a job goes on with the same.
    """

    name: str = "cot"
    parts: int = 1
    threshold: float = THRESHOLD
    batch: int = 8
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not 0 <= self.threshold <= 1 or self.parts < 1 or self.batch < 1:
            raise InputError(
                f"threshold={self.threshold}, parts={self.parts}, batch={self.batch}: give 0 to 1, "
                "and at least 1"
            )


def verify(record: ProcessRecord, text: str, *, threshold: float = THRESHOLD) -> str:
    """Why a trace is dropped in step 2; "" where it is not."""
    if not (videop2r.perception_form(text) and videop2r.reasoning_form(text)):
        return FORM
    return "" if score(record, text) >= threshold else WRONG


def score(record: ProcessRecord, text: str) -> float:
    """Of a trace's answer, by the metric of its question's type."""
    return answers.SCORES[record.kind](answers.answer_text(text), record.truth)


def run(
    records: Sequence[Any],
    folder: Path,
    *,
    write: Write,
    judge: Judge,
    settings: Settings,
    told: Callable[[Counts], None] = lambda counts: None,
) -> Counts:
    """Runs a job, or goes on with the one in the folder.

    Args:
        records: JSON values of the released schema. told: hears of the counts after every batch.

    Raises:
        InputError: the folder has another job or is in use, cannot be written, or the models fail
            batch after batch; what was done until then is kept.
    """
    files.make_folder(folder)
    with _alone(folder):
        job = _Job(records, folder, settings)
        job.go(write, judge, told)
        counts = job.counts()
        if not counts.undecided:
            job.publish()
        return counts


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One job at a time in a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise InputError(f"{folder}: another job is running here; wait for it") from error
    finally:
        os.close(handle)


class _Log:
    """Decisions by record number, a JSON line each; a line that was cut off is dropped."""

    def __init__(self, path: Path):
        self.path, self.found = path, {}
        data = path.read_bytes() if path.exists() else b""
        whole = data.rfind(b"\n") + 1
        for line in data[:whole].splitlines():
            try:
                value = json.loads(line)
                self.found[value.pop("n")] = value
            except (ValueError, KeyError, AttributeError):
                raise InputError(f"{path}: damaged at {line[:40]!r}; delete that line") from None
        if whole < len(data):
            with files.disk_errors(path):
                os.truncate(path, whole)

    def add(self, values: Mapping[int, Mapping[str, Any]]) -> None:
        """Appends what is new, safe on the disk when this returns."""
        new = {n: value for n, value in values.items() if n not in self.found}
        if not new:
            return
        text = "".join(json.dumps({"n": n} | dict(value)) + "\n" for n, value in new.items())
        with files.disk_errors(self.path), self.path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        self.found |= new


class _Job:
    def __init__(self, records: Sequence[Any], folder: Path, settings: Settings):
        self.folder, self.settings = folder, settings
        self.records: list[ProcessRecord | str] = [_parsed(record) for record in records]
        self.raw = records
        digest = hashlib.sha256(json.dumps(list(records), sort_keys=True).encode()).hexdigest()
        wanted = {"records": digest, "count": len(records), "settings": _plain(settings)}
        path = folder / JOB
        if path.exists() and (found := json.loads(path.read_text())) != wanted:
            other = "other records" if found["records"] != digest else "other settings"
            raise InputError(f"{path}: is a job with {other}; give another folder")
        files.write_text(path, json.dumps(wanted, indent=1) + "\n")
        self.traces, self.verdicts = _Log(folder / TRACES), _Log(folder / VERDICTS)
        self.failed: dict[int, str] = {}

    def go(self, write: Write, judge: Judge, told: Callable[[Counts], None]) -> None:
        """All batches, in order."""
        silent = 0
        for start in range(0, len(self.records), self.settings.batch):
            numbers = range(start, min(start + self.settings.batch, len(self.records)))
            before = len(self.traces.found) + len(self.verdicts.found)
            self._write(numbers, write)
            self._judge(numbers, judge)
            after = len(self.traces.found) + len(self.verdicts.found)
            failed = any(n in self.failed for n in numbers)
            silent = silent + 1 if failed and after == before else 0 if after > before else silent
            told(self.counts())
            if silent == _PATIENCE:
                why = next(reversed(self.failed.values()))
                raise InputError(f"{self.folder}: no reply any more ({why}); run again to go on")

    def _write(self, numbers: Sequence[int], write: Write) -> None:
        """Step 1. A batch is written whole, so that what is drawn does not follow from a stop."""
        good = [n for n in numbers if isinstance(self.records[n], ProcessRecord)]
        bad = {n: {"bad": self.records[n]} for n in numbers if n not in good}
        self.traces.add(bad)
        if all(n in self.traces.found for n in good):
            return
        asked = [record for n in good if isinstance(record := self.records[n], ProcessRecord)]
        found = dict(zip(good, write(asked, numbers[0]), strict=True))
        self.failed |= {n: trace.failure for n, trace in found.items() if trace.failure}
        self.traces.add(
            {
                n: {"unreadable": trace.unreadable} if trace.unreadable else {"text": trace.text}
                for n, trace in found.items()
                if not trace.failure
            }
        )

    def _judge(self, numbers: Sequence[int], judge: Judge) -> None:
        """Steps 2 and 3."""
        new, cases = {}, {}
        for n in numbers:
            record, trace = self.records[n], self.traces.found.get(n)
            if trace is None or n in self.verdicts.found:
                continue
            if "bad" in trace or not isinstance(record, ProcessRecord):
                new[n] = {"dropped": BAD_RECORD, "why": trace.get("bad", "")}
            elif "unreadable" in trace:
                new[n] = {"dropped": NO_VIDEO, "why": trace["unreadable"]}
            elif reason := verify(record, trace["text"], threshold=self.settings.threshold):
                new[n] = {"dropped": reason}
            else:
                cases[n] = Case(
                    question=record.question,
                    answer=record.truth,
                    observation=videop2r.observation(trace["text"]),
                    data_type=record.data_type,
                )
        verdicts = judge(list(cases.values())) if cases else []
        for n, verdict in zip(cases, verdicts, strict=True):
            if verdict.lost:
                self.failed[n] = verdict.failure
            elif verdict.sufficient:
                new[n] = {}
            else:
                why = {"why": verdict.failure} if verdict.failure else {}
                new[n] = {"dropped": INSUFFICIENT} | why
        self.verdicts.add(dict(sorted(new.items())))

    def counts(self) -> Counts:
        """So far."""
        said = self.verdicts.found.values()
        dropped = collections.Counter(one["dropped"] for one in said if "dropped" in one)
        left = {n: why for n, why in self.failed.items() if n not in self.verdicts.found}
        return Counts(
            records=len(self.records),
            kept=len(said) - dropped.total(),
            dropped={reason: dropped[reason] for reason in REASONS},
            undecided=len(self.records) - len(said),
            why=next(reversed(left.values()), ""),
        )

    def publish(self) -> None:
        """Writes what everyone is waiting for; the same bytes whenever it is called."""
        kept, lost = [], []
        for n in range(len(self.records)):
            verdict, record = self.verdicts.found[n], self.records[n]
            if "dropped" in verdict or not isinstance(record, ProcessRecord):
                lost.append({"n": n} | verdict)
            else:
                kept.append(_finished(record, self.traces.found[n]["text"]))
        settings = self.settings
        record_files.write(self.folder, settings.name, records=kept, parts=settings.parts)
        lines = "".join(json.dumps(one) + "\n" for one in lost)
        files.write_text(self.folder / "dropped.jsonl", lines)
        report = dataclasses.asdict(self.counts()) | {"threshold": settings.threshold}
        files.write_text(self.folder / "report.json", json.dumps(report, indent=1) + "\n")


def _parsed(record: Any) -> ProcessRecord | str:
    """A record, or what is wrong with it."""
    try:
        return process_records.parse(record)
    except InputError as error:
        return str(error)


def _plain(settings: Settings) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def _finished(record: ProcessRecord, text: str) -> dict[str, Any]:
    """A record of the released schema with its trace; the parts without tags, `output` with."""
    thought = text.partition("<think>")[2].partition("</think>")[0].strip()
    observed, said = videop2r.observation(text), answers.answer_text(text)
    output = (
        f"<observation>{observed}</observation>\n<think>{thought}</think>\n<answer>{said}</answer>"
    )
    return dict(record.rest) | {
        "observation": observed,
        "process": thought,
        "answer": said,
        "output": output,
        "reward": score(record, text),
        "select": True,
    }
