import dataclasses
import gc
import pickle
import shutil
import threading
import time

import jax
import numpy as np
import pytest

from tgvlm_jax.data import pretext, windows
from tgvlm_jax.data.chat import load_chat
from tgvlm_jax.data.collate import collate, round_up
from tgvlm_jax.data.manifest import ShardError
from tgvlm_jax.data.pipeline import Batches, BatchMaker
from tgvlm_jax.data.pretext import AnomalyGrounding
from tgvlm_jax.data.shards import open_shards
from tgvlm_jax.schema import PERTURBATIONS, DataConfig, PerturbationConfig
from tgvlm_jax.types import Batch, InputError, Sample

SIZE = (12, 18)
CONFIG = DataConfig(
    fps=12.5,
    batch_size=4,
    frames=(6, 10),
    strides=(1, 2),
    prompt_bucket=8,
    response_bucket=4,
    prefetch=3,
)
STEPS = 12


@pytest.fixture
def chat():
    return load_chat("tiny", "phi3")


@pytest.fixture
def make(film, chat):
    """Makes a maker of batches; `film` or any other shards, and any change of the config."""

    def make(*, shards=film, seed=0, rows=None, perturbation=None, **change):
        config = dataclasses.replace(CONFIG, **change)
        source = AnomalyGrounding(shards, config, size=SIZE, split="train", seed=seed)
        return BatchMaker(
            source=source,
            chat=chat,
            config=config,
            seed=seed,
            rows=rows,
            perturbation=perturbation,
        )

    return make


def assert_same(one: Batch, other: Batch):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def differ(one: Batch, other: Batch) -> bool:
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return not all(np.array_equal(a, b) for a, b in leaves)


# ------------------------------------------------------------------------------------ batches


def test_a_batch_follows_from_seed_and_step_alone(make):
    maker = make()
    first = [maker(step) for step in range(STEPS)]
    other = pickle.loads(pickle.dumps(make()))
    for step in reversed(range(STEPS)):
        assert_same(other(step), first[step])
    assert all(differ(first[step], first[step + 1]) for step in range(STEPS - 1))
    assert differ(make(seed=1)(0), first[0])


def test_types_are_those_of_the_device(make):
    for leaf in jax.tree.leaves(make()(0)):
        assert leaf.dtype in (np.uint8, np.int32, np.bool_, np.float32)


@pytest.mark.parametrize("hosts", [((0, 1), (2, 3)), ((0,), (1,), (2,), (3,)), ((0, 3), (1, 2))])
def test_rows_of_all_hosts_are_the_batch(make, hosts):
    """Shapes agree between hosts too, whose own texts differ in length."""
    lonely, order = set(), np.argsort([row for rows in hosts for row in rows])
    for step in range(STEPS):
        parts = [make(rows=rows)(step) for rows in hosts]
        whole = make()(step)
        assert_same(jax.tree.map(lambda *rows: np.concatenate(rows)[order], *parts), whole)
        lonely |= {round_up(int(part.prompt.length.max()), 8) for part in parts}
    assert len(lonely) > 1  # else this test could not fail


@pytest.mark.parametrize("kinds", [("shift",), ("distort",), ("add",), PERTURBATIONS])
def test_pairs_are_the_same_samples_with_a_worse_answer(make, chat, kinds):
    maker = make(perturbation=PerturbationConfig(kinds=kinds, moment=0.1), max_events=2)
    plain = make(max_events=2)
    for step in range(4):
        pairs, wanted = maker(step), plain(step)
        assert_same(pairs.prompt, wanted.prompt)
        width = pairs.response.tokens.shape[1]
        assert pairs.rejected.tokens.shape[1] == width
        for good, bad in zip(rows(pairs.response), rows(pairs.rejected), strict=True):
            text, worse = (chat.decode(one.tokens[one.mask].tolist()) for one in (good, bad))
            spans, others = (one.spans[one.evidence_mask] for one in (good, bad))
            assert text != worse or not np.array_equal(spans, others)
            assert text != worse or kinds != ("distort",)
            assert kinds != ("add",) or len(others) == 2 * len(spans) == 4
            assert kinds != ("shift",) or text == worse
        np.testing.assert_array_equal(pairs.scored, pairs.response.mask)
        np.testing.assert_array_equal(pairs.rejected_scored, pairs.rejected.mask)
        np.testing.assert_array_equal(
            pairs.response.tokens[:, : wanted.response.tokens.shape[1]], wanted.response.tokens
        )


def test_pairs_of_all_hosts_are_the_batch(make):
    worse = PerturbationConfig(kinds=("distort", "shift"))
    parts = [make(rows=rows, perturbation=worse)(3) for rows in ((0, 1), (2, 3))]
    whole = make(perturbation=worse)(3)
    assert_same(jax.tree.map(lambda *rows: np.concatenate(rows), *parts), whole)


def test_answers_that_cannot_be_made_worse_say_so(make):
    with pytest.raises(InputError, match=r"no worse answer.*objective\.perturbation\.kinds"):
        make(perturbation=PerturbationConfig(kinds=("merge", "delete")))(0)


def rows(tree):
    """One tree a row."""
    count = len(jax.tree.leaves(tree)[0])
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(count)]


def test_buckets_of_frames_are_drawn_by_step(make):
    shapes = {make()(step).prompt.visual.pixels.shape for step in range(STEPS)}
    assert shapes == {(4, frames, *SIZE, 3) for frames in CONFIG.frames}


def test_what_the_model_is_given_fits_together(make, chat):
    """Slots, frames, evidence and spans, against the samples that they were made from."""
    maker = make()
    for step in range(6):
        batch = maker(step)
        frames = batch.prompt.visual.pixels.shape[1]
        samples = [maker.source.sample(4 * step + row, frames=frames) for row in range(4)]
        for row, sample in enumerate(samples):
            prompt, response = (
                jax.tree.map(lambda leaf, row=row: leaf[row], part)
                for part in (batch.prompt, batch.response)
            )
            encoded = chat.encode(sample)
            length = len(encoded.prompt)
            assert prompt.length == length
            np.testing.assert_array_equal(prompt.visual.pixels, sample.frames)
            np.testing.assert_array_equal(prompt.tokens[:length], encoded.prompt)
            assert np.all(prompt.tokens[length:] == chat.pad_id)
            assert np.all(prompt.visual_index[length:] == -1)
            shown = prompt.visual_index[prompt.tokens == chat.frame_id]
            np.testing.assert_array_equal(shown, np.arange(frames))
            said = response.tokens[response.mask].tolist()
            assert chat.decode(said) == sample.answer
            assert said[-1] == chat.end_id
            assert np.all(response.tokens[~response.mask] == chat.pad_id)
            places = response.tokens == chat.evidence_id
            np.testing.assert_array_equal(response.evidence[places], [0, 1])
            assert np.all(response.evidence[~places] == -1)
            assert response.evidence_mask.tolist() == [True, True]
            first, last = map(int, response.spans[0])
            assert response.spans.tolist() == [[first, last]] * 2
            ends = [*sample.seconds[1:], sample.duration]
            assert sample.spans.tolist() == [[sample.seconds[first], ends[last]]]
        assert prompt.tokens.size % 8 == response.tokens.size % 4 == 0


# ------------------------------------------------------------------------------------ padding


def sample(*, frames=6, spans=1, answer=None, question="Why?", sources=0, **more):
    marks = ["<evi>"] * spans
    return Sample(
        frames=np.full((frames, 2, 3, 3), 7, np.uint8),
        seconds=np.arange(frames) / 2,
        duration=frames / 2,
        question=question,
        answer="".join(marks) + "</evi> " + ", ".join(marks) if answer is None else answer,
        spans=np.array([[k / 2, k / 2 + 1.0] for k in range(spans)]).reshape(-1, 2),
        video="film",
        kind="made up",
        sources=np.array([[k / 2, k / 2 + 1.5] for k in range(sources)]).reshape(-1, 2),
        **more,
    )


def collated(samples, chat, **change):
    config = dataclasses.replace(CONFIG, **change)
    encoded = [chat.encode(one) for one in samples]
    return collate(samples, encoded, config=config, pad_id=chat.pad_id)


def test_padding_is_marked_as_such(chat):
    long = sample(frames=9, spans=3, question="Why and when does that happen, and how often?")
    samples = [sample(frames=5), long, sample(frames=6, answer="", spans=0)]
    batch = collated(samples, chat, max_events=4)
    prompt, response = batch.prompt, batch.response
    assert prompt.visual.pixels.shape == (3, 10, 2, 3, 3)
    assert prompt.visual.mask.sum(axis=1).tolist() == [5, 9, 6]
    assert np.all(prompt.visual.pixels[prompt.visual.mask] == 7)
    assert np.all(prompt.visual.pixels[~prompt.visual.mask] == 0)
    assert prompt.length.tolist() == [len(chat.encode(one).prompt) for one in samples]
    assert prompt.tokens.shape[1] == round_up(int(prompt.length.max()), 8)
    # Three events in slots 0 to 2, mentioned again in slots 4 to 6 of 8.
    mentions = response.evidence[1][response.evidence[1] >= 0]
    assert mentions.tolist() == [0, 1, 2, 4, 5, 6]
    assert response.evidence_mask.tolist() == [
        [True, False, False, False] * 2,
        [True, True, True, False] * 2,
        [False] * 8,
    ]
    assert response.spans[1, :3].tolist() == [[0, 1], [1, 2], [2, 3]]
    np.testing.assert_array_equal(response.spans[1, 4:7], response.spans[1, :3])
    assert np.all(response.spans[~response.evidence_mask] == 0)
    assert not response.mask[2].any()
    assert np.all(response.tokens[2] == chat.pad_id)


def test_spans_of_a_question(chat):
    """There in every batch of a config that allows them, so that nothing compiles twice."""
    asked = sample(question="From <evi> to <evi>?", sources=2)
    batch = collated([sample(), asked], chat, max_sources=3)
    slots = batch.prompt.sources.slots
    assert np.all(slots[0] == -1)
    assert slots[1][batch.prompt.tokens[1] == chat.evidence_id].tolist() == [0, 1]
    assert (slots >= 0).sum() == 2
    assert batch.prompt.sources.spans[1].tolist() == [[0, 2], [1, 3], [0, 0]]
    assert collated([sample()], chat).prompt.sources is None
    with pytest.raises(InputError, match=r"2 spans, but data\.max_sources=1"):
        collated([asked], chat, max_sources=1)


def test_seconds_may_be_frames(chat):
    """D2VLM's: a second is the frame shown then, ends included, fractions kept."""
    one = dataclasses.replace(sample(), spans=np.array([[0.5, 1.25]]))
    batch = collated([one], chat, times="points")
    assert batch.response.spans.tolist() == [[[1.0, 2.5]] * 2]


def test_nothing_is_learned_from_what_cannot_be_read(chat):
    both = collated([sample()] * 2, chat)
    read = collated([sample(), sample(readable=False)], chat)
    assert read.response.mask[0].any()
    assert not read.response.mask[1].any()
    assert not read.response.evidence_mask[1].any()
    np.testing.assert_array_equal(read.prompt.tokens, both.prompt.tokens)


def test_a_question_for_the_tower(chat):
    pieces = load_chat("tiny", "phi3", question_vocab="tiny")
    samples = [sample(question="Why?"), sample(question="When does the door open?")]
    question = collated(samples, pieces, question_bucket=8).prompt.visual.question
    assert question.ids.shape == question.mask.shape
    assert question.ids.shape[1] % 8 == 0
    for row, one in enumerate(samples):
        there = question.ids[row][question.mask[row]]
        assert there.tolist() == pieces.pieces.ids(one.question)
    assert collated(samples, chat).prompt.visual.question is None


def test_nothing_to_answer_still_has_a_shape(chat):
    """As in generation, where the answers are empty and the spans may be known."""
    batch = collated([sample(answer="", spans=1)] * 2, chat)
    assert batch.response.tokens.shape == (2, 4)
    assert not batch.response.evidence_mask.any()


def test_the_smallest_bucket_that_fits_is_taken(chat):
    for frames, bucket in ((5, 6), (6, 6), (7, 10), (10, 10)):
        assert collated([sample(frames=frames)], chat).prompt.visual.pixels.shape[1] == bucket
    assert [round_up(n, 8) for n in (1, 8, 9, 16, 17)] == [8, 8, 16, 16, 24]


def test_what_does_not_fit(chat, make):
    with pytest.raises(InputError, match=r"11 frames, but the largest bucket of .* is 10"):
        collated([sample(frames=11)], chat)
    with pytest.raises(InputError, match=r"film, 'Why\?': 2 spans, but data\.max_events=1"):
        collated([sample(spans=2)], chat)


# ------------------------------------------------------------------------------------ iterating


@pytest.fixture
def batches():
    """Opens iterators and closes them at the end."""
    opened = []

    def start(maker, *, steps=STEPS):
        opened.append(Batches(maker, steps=steps))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_batches_come_in_order_and_end(make, batches, threads):
    made = batches(make(threads=threads))
    for step in range(STEPS):
        assert_same(next(made), make()(step))
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(made)


@pytest.mark.parametrize("taken", [0, 1, 5, STEPS])
def test_state_resumes_at_the_next_batch(make, batches, taken):
    """Also while batches made ahead wait in the buffer, which belong to no state."""
    made = batches(make())
    for _ in range(taken):
        next(made)
    time.sleep(0.05)
    state = made.get_state()
    resumed = batches(make(threads=1, prefetch=7))
    resumed.set_state(state)
    back = batches(make())
    for _ in range(min(7, STEPS)):
        next(back)
    back.set_state(state)
    for step in range(taken, STEPS):
        expected = make()(step)
        for one in (made, resumed, back):
            assert_same(next(one), expected)
    with pytest.raises(StopIteration):
        next(back)


def test_batches_are_made_ahead(make, batches, monkeypatch):
    asked, enough = [], threading.Event()

    def note(kind, *, form):
        asked.append(kind)
        if len(asked) >= 4 * (1 + CONFIG.prefetch):
            enough.set()
        return "Why?"

    monkeypatch.setattr(pretext, "question", note)
    next(batches(make()))
    assert enough.wait(20)


def drain(made):
    while True:
        next(made)


def workers():
    return {thread for thread in threading.enumerate() if "grain" in thread.name}


def assert_no_workers(before=frozenset()):
    deadline = time.monotonic() + 20
    while workers() - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert workers() - before == set()


def test_closing_leaves_nothing_behind(make):
    """Not a thread, and no warning from what is collected (warnings are errors here)."""
    before = workers()
    made = Batches(make(threads=3), steps=STEPS)
    next(made)
    assert workers() - before
    made.close()
    made.close()
    assert_no_workers(before)
    del made
    gc.collect()


@pytest.fixture
def cut(film_folder, tmp_path):
    """Shards whose file loses its second half after it was opened; gives (shards, cut)."""
    folder = tmp_path / "cut"
    shutil.copytree(film_folder, folder)
    shards = open_shards(folder)
    (path,) = folder.glob("*.arrayrecord")

    def cut():
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)

    return shards, cut


@pytest.mark.parametrize("threads", [0, 2])
def test_damage_reaches_the_caller_as_what_it_is(make, batches, cut, threads, monkeypatch):
    """One line that names the file and what to do, in good time; then the iterator is over."""
    monkeypatch.setattr(windows, "_KEPT_BYTES", 0)
    shards, damage = cut
    before = workers()
    made = batches(make(shards=shards, threads=threads, train_span=(0.4, 1.0)), steps=1000)
    next(made)
    damage()
    # Whichever notices first: the open file that ends too soon, or one opened anew.
    with pytest.raises(
        ShardError, match=r"cut/frames-00000\.arrayrecord: (cannot be|has 0)"
    ) as caught:
        drain(made)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, InputError)
    assert_no_workers(before)
    with pytest.raises(ValueError, match="closed"):
        next(made)


def test_any_other_error_of_a_worker_too(make, batches, monkeypatch):
    def fail(*_, **__):
        raise OSError("the network drive has gone")

    made = batches(make())
    next(made)
    monkeypatch.setattr(pretext, "perturb", fail)
    with pytest.raises(OSError, match="the network drive has gone"):
        drain(made)
