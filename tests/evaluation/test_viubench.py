import itertools
import json

import pytest

from tgvlm_jax.evaluation.etbench_captioning import CaptionScorers
from tgvlm_jax.evaluation.similarity import TokenOverlap
from tgvlm_jax.evaluation.suites import open_suite
from tgvlm_jax.evaluation.viubench import COLUMNS, Question, Result, read_viubench, score_viubench
from tgvlm_jax.types import InputError

TRUTHS = {
    "counting_easy": "3,1,4", "counting_hard": "16,2,7", "channel_swap": "0.0-12.0",
    "rotate180": "12.0-20.0", "zoom_out": "40.0-48.0", "mirror": "10.0-22.0",
    "shuffle": "1.0-9.0", "jigsaw_6": "312465", "jigsaw_8": "87654321",
}  # fmt: skip


def question(subset, answer=None, number=0, duration=48.0):
    return Question(
        id=f"{subset}/{number}",
        subset=subset,
        video="film",
        question="?",
        answer=answer or TRUTHS[subset],
        duration=duration,
    )


SCORERS = CaptionScorers(similarity=TokenOverlap(), metrics=None)
ALL = [question(subset) for subset in COLUMNS]


def test_right_answers_have_all_points():
    found = score_viubench(ALL, [one.answer for one in ALL])
    for table in (found.to_json()["scores"], found.to_json()["readable"]):
        assert list(table) == [*COLUMNS.values(), "C", "G", "J", "All"]
        assert set(table.values()) == {100.0}


def test_each_task_has_its_metric():
    answers = {
        "counting_easy": "3,1,5",  # two shapes of three
        "counting_hard": "17,2,7",
        "channel_swap": "0.0-6.0",  # half
        "jigsaw_6": "312456",  # nearly
        "jigsaw_8": "87654321",
    }
    found = score_viubench(ALL, [answers.get(one.subset, "") for one in ALL]).to_json()
    scores = found["scores"]
    assert scores["Ce"] == pytest.approx(200 / 3)
    assert scores["Ch"] == pytest.approx(200 / 3)
    assert scores["Chan"] == pytest.approx(50)
    assert (scores["Je"], scores["Jh"]) == (0, 100)
    assert scores["C"] == pytest.approx(200 / 3)
    assert scores["G"] == pytest.approx(10)
    assert scores["J"] == pytest.approx(50)
    assert scores["All"] == pytest.approx((400 / 3 + 50 + 100) / 9)
    assert 80 < found["rewards"]["Je"] < 100
    assert (found["readable"]["Mirr"], found["readable"]["Je"]) == (0, 100)


def test_averages_of_the_paper():
    """VideoSSR-8B's row of the table: the averages are plain means of the columns."""
    row = (29.0, 24.6, 88.7, 89.0, 94.4, 67.8, 41.0, 24.3, 8.0)
    scores = dict(zip(COLUMNS, row, strict=True))
    result = Result(scores=scores, rewards={}, readable={}, blind={}, blind_rewards={})
    found = result.to_json()["scores"]
    means = {"C": 26.8, "G": 76.2, "J": 16.2, "All": 51.9}
    assert {name: found[name] for name in means} == pytest.approx(means, abs=0.06)


def test_scoring_says_where_an_interval_may_stand():
    asked = [question("mirror")]
    said = ["It is from 10.0 - 22.0 seconds."]
    assert score_viubench(asked, said).scores["mirror"] == 0
    found = score_viubench(asked, said, scoring="anywhere")
    assert found.scores["mirror"] == pytest.approx(100)


def test_blind_answers_stand_beside():
    orders = ["".join(one) for one in itertools.permutations("123456")]
    asked = [question("jigsaw_6", order, n) for n, order in enumerate(orders)]
    asked += [question("mirror", f"{start}.0-{start + 12}.0", start) for start in range(36)]
    asked += [question("counting_easy", f"{n % 9 + 1},3,3", n) for n in range(18)]
    found = score_viubench(asked, [""] * len(asked))
    blind = found.blind
    for sort in ("constant answer", "at random"):
        assert blind[sort]["jigsaw_6"] == pytest.approx(100 / 720)
    assert blind["whole video"]["mirror"] == pytest.approx(25)
    assert blind["at random"]["mirror"] < blind["whole video"]["mirror"]
    assert blind["constant answer"]["counting_easy"] == pytest.approx(100 * (1 / 9 + 2) / 3)
    assert blind["at random"]["counting_easy"] == pytest.approx(100 / 9)
    assert blind["whole video"]["counting_easy"] is None
    assert found.blind_rewards["jigsaw_6"] == pytest.approx(35.2, abs=0.05)
    main, more = found.tables()
    assert [row[0] for row in main.rows] == [
        "this model", "constant answer", "whole video", "at random", "best blind answer",
    ]  # fmt: skip
    best = dict(zip(main.columns, main.rows[-1], strict=True))
    assert best["Mirr"] >= 25
    assert best["Ch"] is None  # no such questions
    assert best["All"] is None
    assert "best blind answer's" in more.text()


@pytest.fixture
def written(tmp_path):
    def write(**changes):
        rows = [
            {"id": one.id, "subset": one.subset, "video": one.video, "question": one.question,
             "answer": one.answer, "duration": one.duration}
            for one in ALL
        ]  # fmt: skip
        rows[5] |= changes
        path = tmp_path / "questions.json"
        path.write_text(json.dumps({"questions": rows}))
        return path

    return write


def test_the_suite_reads_and_scores(written):
    suite = open_suite("viubench", [written()])
    assert [one.name for one in suite.questions] == [one.id for one in ALL]
    assert suite.changed
    answers = {one.id: one.answer for one in ALL[:4]}
    scored = suite.score(answers, scoring=None, scorers=SCORERS)
    assert scored.figures["unanswered"] == 5
    assert scored.figures["scoring"] == "form"
    assert scored.figures["scores"]["C"] == 100
    assert "whole video" in scored.text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "soon"}, "record 5: 'answer' is none of its task, found 'soon'"),
        ({"answer": "9-3"}, "'answer' is none of its task"),
        ({"subset": "blur"}, "'subset' must be one of counting_easy"),
        ({"duration": 0}, "'duration' must be positive"),
    ],
)
def test_bad_records_are_named(written, changes, message):
    found = read_viubench(written(**changes))
    assert len(found.records) == 8
    (problem,) = found.problems
    assert message in str(problem)


def test_nothing_to_score():
    with pytest.raises(InputError, match="no questions"):
        score_viubench([], [])
