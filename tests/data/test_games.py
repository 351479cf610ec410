import collections
import itertools
import json

import numpy as np
import pytest

from tgvlm_jax.data import annotations, games, games_questions, tokenizer
from tgvlm_jax.data.chat import TEMPLATES, Chat
from tgvlm_jax.types import InputError

pytest.importorskip("minigrid", reason="renders episodes: pip install '.[games]'")
TILE, FPS = games.TILE, games.FPS


@pytest.fixture(scope="module")
def episodes():
    return [games.episode([3, number]) for number in range(6)]


@pytest.fixture(scope="module")
def records(episodes):
    return [
        record
        for number, one in enumerate(episodes)
        for record in games_questions.records(one, video=f"{number}.mp4", kinds=games.KINDS)
    ]


def of_kind(episodes, kind):
    """Every event of a kind with its film and its frames."""
    for one in episodes:
        for event in one.events:
            if event.kind == kind:
                yield one, event, slice(round(event.start * FPS), round(event.end * FPS))


def test_a_seed_is_an_episode(episodes):
    again, other = games.episode([3, 0]), episodes[1]
    assert np.array_equal(again.frames, episodes[0].frames)
    assert (again.events, again.layout) == (episodes[0].events, episodes[0].layout)
    assert other.layout != again.layout


def carried_panel(film):
    return film.frames[:, : 2 * TILE, games.SIDE * TILE :]


def test_carrying_is_on_screen_exactly_then(episodes):
    """The panel shows what is carried, and is dark at any other time."""
    for film in episodes:
        shown = carried_panel(film).max(axis=(1, 2, 3)) > 150
        told = np.zeros_like(shown)
        for _, _, frames in of_kind([film], "carry"):
            told[frames] = True
        assert np.array_equal(shown, told)


def test_each_color_is_carried_in_its_color(episodes):
    channel = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}
    seen = set()
    for film, event, frames in of_kind(episodes, "carry"):
        color = event.target.split()[0]
        brightest = carried_panel(film)[frames].max(axis=(0, 1, 2)) > 150
        assert tuple(brightest) == tuple(map(bool, channel[color]))
        seen.add(color)
    assert len(seen) > 1


def test_what_it_waits_at_is_shown_ahead(episodes):
    channel = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}
    for film, event, frames in of_kind(episodes, "wait"):
        ahead = film.frames[frames, 2 * TILE : 4 * TILE, games.SIDE * TILE :]
        brightest = ahead.max(axis=(0, 1, 2)) > 150
        assert tuple(brightest) == tuple(map(bool, channel[event.target.split()[0]]))


@pytest.mark.parametrize("kind", ["wait", "open"])
def test_while_it_waits_nothing_moves_and_before_something_did(episodes, kind):
    found = list(of_kind(episodes, kind))
    assert found
    for film, _, frames in found:
        inside = film.frames[frames]
        assert np.all(inside == inside[0])
        assert np.any(film.frames[frames.start - 1] != inside[0])


def test_a_walk_moves_and_leads_up_to_what_it_is_for(episodes):
    for film, event, frames in of_kind(episodes, "walk"):
        steps = np.diff(film.frames[frames.start : frames.stop + 1].astype(int), axis=0)
        assert np.all(np.any(steps != 0, axis=(1, 2, 3)))
        after = [one.target for one in film.events if one.start == event.end]
        assert after == [event.target]


def test_events_and_lengths_are_within_bounds(episodes):
    for film in episodes:
        acts = [event for event in film.events if event.kind in games.ACTIONS]
        kinds = [event.kind for event in acts]
        assert 3 <= len(acts) == len(film.missions) <= 4
        assert len({(event.kind, event.target) for event in acts}) == len(acts)
        assert max(map(kinds.count, kinds)) >= 2
        assert 7 <= film.duration == len(film.frames) / FPS <= 15
        assert all(event.end - event.start >= 1 for event in film.events)
        assert all(a.end <= b.start for a, b in itertools.pairwise(acts))
    assert len({film.duration for film in episodes}) > 2


def test_records_are_read_without_complaint(records, tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(records))
    found = annotations.load(path)
    assert (len(found.kept), found.rejected, found.filtered) == (len(records), [], {})
    assert {one.task for one in found.kept} == {"tvg", "dvc", "rar"}
    for one in found.kept:
        assert len(one.sources) == (one.task == "rar")
        assert one.video_first == (one.task == "rar")  # what points into the film comes after it
        assert len(one.spans) == {"tvg": 1, "dvc": len(one.spans), "rar": 0}[one.task]


def test_what_is_asked_for_happens_once_and_has_a_rival(episodes):
    for film in episodes:
        made = games_questions.records(film, video="0.mp4", kinds=games.ACTIONS)
        asked = [one for one in made if one["task"] == "tvg"]
        assert len(asked) >= 2
        for one in asked:
            said = one["conversations"][1]["value"].partition("It ")[2].partition(" in <")[0]
            told = next(e for e in made if e["task"] == "dvc")["conversations"][1]["value"]
            assert told.count(f"<evi> {said}.") == 1
            assert told.count(f"<evi> {said.split()[0]} ") >= 2


def test_kinds_limit_what_is_asked(episodes):
    made = games_questions.records(episodes[0], video="0.mp4", kinds=("walk",))
    assert all("walks" in one["conversations"][1]["value"] for one in made)
    for kinds in (("fly",), ()):
        with pytest.raises(InputError, match="carry, open, wait, walk"):
            games_questions.check_kinds(kinds)


def test_blind_answers_earn_what_they_should():
    def asked(task, duration, **more):
        turns = [{"value": f"When does the agent {more.pop('verb', 'carry')} it?"}, {"value": "a"}]
        return {"task": task, "duration": duration, "conversations": turns, **more}

    found = [
        asked("tvg", 10.0, tgt=[0, 5], verb="carry"),
        asked("tvg", 20.0, tgt=[10, 20], verb="open"),
        asked("dvc", 10.0, tgt=[0, 5, 5, 10]),
        asked("dvc", 12.0, tgt=[0, 1]),
        asked("rar", 10.0),
    ]
    blind = games_questions.blind(found)
    assert blind.by_kind == pytest.approx(1.0)
    assert blind.mean_iou == pytest.approx(0.5)
    assert blind.recall in (0.5, 1.0)  # [0, 5] is half of the whole film, and all of one truth
    assert blind.captions == pytest.approx(2 * 2 / (3 + 2 * 2))
    assert blind.referring == 1.0


def test_its_tokenizer_knows_the_words(records):
    words = tokenizer.train_tokenizer(games_questions.sentences())
    chat = Chat(words, TEMPLATES["phi3"])
    assert chat.vocab_size <= 512
    for one in records:
        for turn in one["conversations"]:
            text = turn["value"].replace("<image>", "").strip()
            ids = words.encode(text).ids
            assert words.decode(ids, skip_special_tokens=False) == text
            # One token a word, the full stop and the space before `<evi>` apart.
            assert len(ids) <= len(text.replace("<evi>", " <evi>").split()) + text.count(" <") + 7


def test_training_balances_the_kinds_and_evaluation_asks_once(episodes):
    asked = games_questions.records(episodes[0], video="0.mp4", kinds=games.ACTIONS)
    tasks = collections.Counter(one["task"] for one in asked)
    assert (tasks["dvc"], tasks["rar"]) == (3, len(episodes[0].events) - _walks(episodes[0]))
    few = games_questions.few(asked, rng=np.random.default_rng(0))
    wanted = {"tvg": min(2, tasks["tvg"]), "dvc": 3, "rar": 1}
    assert collections.Counter(one["task"] for one in few) == wanted
    assert all(one in asked for one in few)
    once = games_questions.once(asked)
    assert len(once) == len(asked) - 2


def _walks(episode):
    return sum(event.kind == "walk" for event in episode.events)
