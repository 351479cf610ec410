"""The CoT job: what is kept and dropped and why; and that a stop at any moment changes nothing."""

import json

import pytest

from tgvlm_jax.data import annotations, cot, record_files
from tgvlm_jax.data.cot import Settings, Trace
from tgvlm_jax.judges import judge
from tgvlm_jax.judges.judge import Verdict
from tgvlm_jax.types import InputError


def trace(seen="The car is blue.", thought="So B.", said="B"):
    return f"<observation>{seen}</observation>\n<think>{thought}</think>\n<answer>{said}</answer>"


def record(number, **changes):
    return {
        "problem": f"What colour is car {number}?",
        "options": ["A. red", "B. blue"],
        "solution": "<answer>B</answer>",
        "path": f"{number}.mp4",
        "data_type": "video",
        "problem_type": "multiple choice",
        "problem_id": number,
        **changes,
    }


FREE = {"problem_type": "free-form", "options": [], "solution": "<answer>a blue car</answer>"}
# What a model writes to each record, and what becomes of it.
STORIES = [
    (record(0), trace(), ""),
    (record(1), trace(said="A"), cot.WRONG),
    (record(2), trace() + " so", cot.FORM),
    (record(3), trace(seen="Something moves."), cot.INSUFFICIENT),
    (record(4, path=""), None, cot.BAD_RECORD),
    (record(5), Trace(unreadable="no such video"), cot.NO_VIDEO),
    (record(6, **FREE), trace(said="a blue car"), ""),
    (record(7, **FREE), trace(said="the blue car"), ""),  # ROUGE 2/3, 1/2 and 2/3: 0.61
    (record(8, **FREE), trace(said="blue boat"), cot.WRONG),
    (record(9), "", cot.FORM),
    (record(10), trace(thought="Hmm, 🚗. It is blue."), ""),
]
RECORDS = [one for one, _, _ in STORIES]
SETTINGS = Settings(batch=3, parts=2)


class Model:
    """Writes the stories; fails or is stopped at given calls."""

    def __init__(self, *, fails=(), stops=(), text=None):
        self.fails, self.stops, self.calls, self.written = set(fails), set(stops), 0, []
        self.text = text

    def __call__(self, records, number):
        self.calls += 1
        if self.calls - 1 in self.stops:
            raise KeyboardInterrupt
        if self.calls - 1 in self.fails:
            return [Trace(failure="status 500") for _ in records]
        found = []
        for one in records:
            self.written.append(one.rest["problem_id"])
            said = STORIES[one.rest["problem_id"]][1] if self.text is None else self.text
            found.append(said if isinstance(said, Trace) else Trace(text=said))
        return found


def run(folder, model=None, *, settings=SETTINGS, records=RECORDS, by=judge.words, **more):
    write = model or Model()
    return cot.run(records, folder, write=write, judge=by, settings=settings, **more)


def results(folder):
    names = ("cot.part1of2.json.gz", "cot.part2of2.json.gz", "dropped.jsonl", "report.json")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return results(folder)


def test_every_record_is_kept_or_dropped_with_its_reason(tmp_path):
    counts = run(tmp_path)
    wanted = {reason: sum(story[2] == reason for story in STORIES) for reason in cot.REASONS}
    assert counts.dropped == wanted
    assert (counts.kept, counts.undecided) == (4, 0)
    assert counts.kept + sum(counts.dropped.values()) == counts.records == len(RECORDS)
    kept = record_files.read(tmp_path / "cot.part*of2.json.gz")
    assert [one["problem_id"] for one in kept] == [0, 6, 7, 10]
    assert kept[0]["observation"] == "The car is blue."
    assert (kept[0]["process"], kept[0]["answer"]) == ("So B.", "B")
    assert kept[0]["output"] == trace()
    assert (kept[0]["reward"], kept[0]["select"]) == (1.0, True)
    assert kept[2]["reward"] == pytest.approx((2 / 3 + 1 / 2 + 2 / 3) / 3, abs=1e-6)
    lost = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert lost[3] == {"n": 4, "dropped": "bad record", "why": "path is empty"}
    # What comes out goes in: into training, and into another job.
    found = annotations.load(tmp_path / "cot.part*of2.json.gz")
    assert [one.answer for one in found.kept] == [one["output"] for one in kept]


def test_the_threshold_counts(tmp_path):
    counts = run(tmp_path, settings=Settings(batch=3, parts=2, threshold=0.62))
    assert (counts.kept, counts.dropped[cot.WRONG]) == (3, 3)


@pytest.mark.parametrize("stop", range(4))
def test_a_job_that_was_stopped_goes_on(stop, tmp_path, whole):
    """At any batch; no record is written twice."""
    first, second = Model(stops=[stop]), Model()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, first)
    assert run(tmp_path, second).undecided == 0
    assert results(tmp_path) == whole
    assert sorted(first.written + second.written) == [n for n in range(11) if n != 4]


@pytest.mark.parametrize("name", [cot.TRACES, cot.VERDICTS])
def test_a_kill_at_any_byte_loses_nothing(name, tmp_path, whole):
    run(tmp_path)
    data = (tmp_path / name).read_bytes()
    for cut in range(0, len(data), 41):
        (tmp_path / name).write_bytes(data[:cut])
        for old in whole:
            (tmp_path / old).unlink()
        run(tmp_path)
        assert results(tmp_path) == whole
        lines = (tmp_path / name).read_bytes().splitlines()
        numbers = [json.loads(line)["n"] for line in lines]
        assert sorted(numbers) == list(range(11)), f"cut at {cut}"


def test_a_model_that_fails_decides_nothing(tmp_path, whole):
    counts = run(tmp_path, Model(fails=[1]))
    assert (counts.undecided, counts.why) == (2, "status 500")  # record 4 is bad anyway
    assert not (tmp_path / "report.json").exists()
    again = Model()
    assert run(tmp_path, again).undecided == 0
    assert again.written == [3, 5]
    assert results(tmp_path) == whole


def test_a_judge_that_fails_decides_nothing(tmp_path, whole):
    def fails(cases):
        return [Verdict(sufficient=False, failure="timed out", lost=True) for _ in cases]

    counts = run(tmp_path, by=fails)
    assert (counts.undecided, counts.kept, counts.why) == (5, 0, "timed out")
    again = Model()
    assert run(tmp_path, again).undecided == 0
    assert again.calls == 0  # nothing is written anew
    assert results(tmp_path) == whole


def test_models_that_are_down_stop_the_job(tmp_path, whole):
    """After two batches, whatever is left; and nothing is lost."""
    down = Model(fails=range(100))
    many = [record(n) for n in range(30)]
    with pytest.raises(InputError, match=r"no reply any more \(status 500\); run again to go on"):
        run(tmp_path, down, records=many)
    assert down.calls == 2
    counts = run(tmp_path, Model(text=trace()), records=many)
    assert (counts.kept, counts.undecided) == (30, 0)


def test_another_job_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(InputError, match="other records; give another folder"):
        run(tmp_path, records=RECORDS[1:])
    with pytest.raises(InputError, match="other settings"):
        run(tmp_path, settings=Settings(batch=3, parts=2, about={"model": "other"}))

    def twice(records, number):
        return run(tmp_path / "in", Model())

    with pytest.raises(InputError, match="another job is running here"):
        run(tmp_path / "in", twice)


def test_a_damaged_log_is_named(tmp_path):
    run(tmp_path)
    (tmp_path / cot.TRACES).write_bytes(b"hm\n" + (tmp_path / cot.TRACES).read_bytes())
    with pytest.raises(InputError, match=r"traces\.jsonl: damaged at b'hm'; delete that line"):
        run(tmp_path)


def test_it_tells_how_far_it_is(tmp_path):
    heard = []
    run(tmp_path, told=heard.append)
    assert [one.undecided for one in heard] == [8, 5, 2, 0]


@pytest.mark.parametrize("changes", [{"threshold": 2.0}, {"parts": 0}, {"batch": 0}])
def test_settings_that_make_no_sense(changes):
    with pytest.raises(InputError, match="give 0 to 1, and at least 1"):
        Settings(**changes)
