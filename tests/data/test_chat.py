import dataclasses

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tgvlm_jax.data import pretext
from tgvlm_jax.data.chat import TEMPLATES, Chat, check_answer, load_chat, open_chat, render
from tgvlm_jax.schema import ANOMALY_KINDS, DataConfig, Experiment
from tgvlm_jax.types import InputError, Sample

# Byte-level BPE must bring back whatever a person types.
TYPED = (
    "Wann öffnet der Mann die Tür?",
    "男人什么时候打开门？",
    "Quand 🐇 saute-t-il\u00a0?",
    "two\nlines\tand  spaces ",
    "naïve café, not nai\u0308ve cafe\u0301",
)


ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


@pytest.fixture
def chat():
    return load_chat("tiny", "phi3")


def sample(
    question="When does the video stutter?", answer="", spans=(), frames=6, sources=0, first=True
):
    return Sample(
        frames=np.zeros((frames, 2, 2, 3), np.uint8),
        seconds=np.arange(frames) / 2,
        duration=frames / 2,
        question=question,
        answer=answer,
        spans=np.asarray(spans, np.float64).reshape(-1, 2),
        video="film",
        kind="stutter",
        sources=np.array([[0.5 * k, 0.5 * k + 1] for k in range(sources)]).reshape(-1, 2),
        video_first=first,
    )


ONE = ((0.5, 1.5),)
TWO = ((0.5, 1.0), (1.5, 2.5))


@pytest.mark.parametrize("first", [True, False])
def test_clips_are_lines_with_their_frames(chat, first):
    plain = sample(question="In which order?", answer="312", frames=6, first=first)
    several = chat.encode(dataclasses.replace(plain, clips=(1, 2, 3)))
    text = chat.tokenizer.decode(several.prompt.tolist(), skip_special_tokens=False)
    lines = [f"Clip {i + 1}: {'<frame>' * (i + 1)}" for i in range(3)]
    asked = ["In which order?"]
    assert "\n".join([*lines, *asked] if first else [*asked, *lines]) in text
    shown = several.prompt == chat.frame_id
    np.testing.assert_array_equal(several.visual_index[shown], np.arange(6))
    assert np.all(several.visual_index[~shown] == -1)
    assert chat.decode(several.response.tolist()) == "312"
    # One clip is shown as it was before there were several.
    one = chat.encode(plain)
    np.testing.assert_array_equal(one.visual_index[one.prompt == chat.frame_id], np.arange(6))
    start, end = (each.prompt.tolist().index(chat.frame_id) for each in (one, several))
    label = chat.tokenizer.encode("Clip 1: ", add_special_tokens=False).ids
    assert several.prompt[:end].tolist() == [*one.prompt[:start].tolist(), *label]


def test_clips_of_other_frames_than_there_are_are_refused(chat):
    with pytest.raises(InputError, match=r"film: 6 frames, clips of \(2, 2\)"):
        chat.encode(dataclasses.replace(sample(frames=6), clips=(2, 2)))


@pytest.mark.parametrize("text", [*pretext.sentences(), *TYPED])
def test_what_is_encoded_comes_back(chat, text):
    spans = ONE if "<evi>" in text else ()
    encoded = chat.encode(sample(answer=text, spans=spans))
    assert chat.decode(encoded.response.tolist()) == text
    asked = chat.encode(sample(question=text.replace("</evi>", ""), sources=text.count("<evi>")))
    said = chat.decode([*asked.prompt[asked.prompt != chat.end_id].tolist()])
    assert text.replace("</evi>", "") in said


def test_the_tiny_world_fits_the_defaults(chat):
    """Every answer can be generated in full, and the embedding has a row for every token."""
    experiment = Experiment()
    answers = [pretext.answer(kind) for kind in ANOMALY_KINDS]
    encoded = [chat.encode(sample(answer=answer, spans=ONE)) for answer in answers]
    assert max(len(one.response) for one in encoded) <= experiment.evaluation.max_tokens
    assert chat.vocab_size <= experiment.model.decoder.vocab_size


def test_frames_stand_between_the_turn_and_the_question(chat):
    encoded = chat.encode(sample(question="Why?", frames=6))
    is_frame = encoded.prompt == chat.frame_id
    assert is_frame.sum() == 6
    first = int(np.argmax(is_frame))
    np.testing.assert_array_equal(np.flatnonzero(is_frame), first + np.arange(6))
    np.testing.assert_array_equal(encoded.visual_index[is_frame], np.arange(6))
    assert np.all(encoded.visual_index[~is_frame] == -1)
    said = chat.tokenizer.decode(encoded.prompt.tolist(), skip_special_tokens=False)
    # The turn markers swallow the white space to their right, as Phi-3's do.
    assert said == (
        "<|system|>You are a helpful AI assistant.<|end|><|user|>"
        + "<frame>" * 6
        + "\nWhy?<|end|><|assistant|>"
    )
    assert encoded.response.size == encoded.evidence.size == 0


def test_the_video_may_come_last(chat):
    encoded = chat.encode(sample(question="Why?", frames=2, first=False))
    said = chat.tokenizer.decode(encoded.prompt.tolist(), skip_special_tokens=False)
    assert said == (
        "<|system|>You are a helpful AI assistant.<|end|><|user|>Why?\n<frame><frame><|end|>"
        "<|assistant|>"
    )
    np.testing.assert_array_equal(encoded.visual_index >= 0, encoded.prompt == chat.frame_id)


def test_a_question_points_at_spans(chat):
    encoded = chat.encode(sample(question="From <evi> to <evi>?", sources=2))
    assert np.all(encoded.prompt[encoded.sources] == chat.evidence_id)
    assert encoded.sources.size == (encoded.prompt == chat.evidence_id).sum() == 2
    for question, sources, cause in (
        ("After <evi>?", 0, "1 <evi> in the question, but 0 sources"),
        ("When?", 1, "0 <evi> in the question, but 1 sources"),
        ("After <evi></evi>?", 1, "</evi> in the question"),
    ):
        with pytest.raises(InputError, match=cause):
            chat.encode(sample(question=question, sources=sources))


def test_a_tower_may_read_the_question():
    chat = load_chat("tiny", "phi3", question_vocab="tiny", question_tokens=8)
    encoded = chat.encode(sample(question="When does the DOOR open, and then what?"))
    assert encoded.question.size == 8
    assert chat.pieces.vocab_size <= 512
    assert chat.pieces.pad == 0


def test_only_the_answer_and_its_end_are_learned(chat):
    answer = "<evi><evi></evi> First <evi>, then <evi>."
    silent = chat.encode(sample(spans=TWO))
    spoken = chat.encode(sample(answer=answer, spans=TWO))
    np.testing.assert_array_equal(spoken.prompt, silent.prompt)
    assert chat.decode(spoken.response.tolist()) == answer
    assert spoken.response[-1] == chat.end_id
    assert (spoken.response == chat.end_id).sum() == 1
    assert spoken.evidence.tolist()[:2] == [0, 1]
    assert spoken.evidence.size == 4
    assert np.all(spoken.response[spoken.evidence] == chat.evidence_id)


def test_decoding_stops_at_the_end(chat):
    ids = chat.encode(sample(answer="yes")).response.tolist()
    assert chat.decode([*ids, *ids]) == "yes"
    assert chat.decode(ids[:-1]) == "yes"
    assert chat.decode([]) == ""


GOOD = [
    ("", ONE),
    ("no evidence at all", ()),
    ("<evi></evi> at <evi>", ONE),
    ("<evi><evi></evi> <evi> and <evi>", TWO),
    ("</evi> nothing happens", ()),
]
BAD = {
    "spans without evidence": ("at 3 seconds", ONE, "has 0 </evi>, not one"),
    "evidence without spans": ("at <evi>", (), "has 0 </evi>, not one"),
    "no end": ("<evi> at <evi>", ONE, "has 0 </evi>, not one"),
    "two ends": ("<evi></evi></evi> at <evi>", ONE, "has 2 </evi>, not one"),
    "too few before": ("<evi></evi> <evi> <evi>", TWO, "1 <evi> before </evi>, but 2 spans"),
    "too many before": ("<evi><evi></evi> <evi>", ONE, "2 <evi> before </evi>, but 1 spans"),
    "none after": ("<evi></evi> then", ONE, "0 <evi> after </evi>, but 1 spans"),
    "too many after": ("<evi></evi> <evi> <evi>", ONE, "2 <evi> after </evi>, but 1 spans"),
    "no span": ("<evi></evi> at <evi>", (), "1 <evi> before </evi>, but 0 spans"),
}


@pytest.mark.parametrize(("answer", "spans"), GOOD)
def test_good_answers(chat, answer, spans):
    encoded = chat.encode(sample(answer=answer, spans=spans))
    assert len(encoded.evidence) == answer.count("<evi>")


@pytest.mark.parametrize(("answer", "spans", "cause"), BAD.values(), ids=BAD)
def test_bad_answers_are_one_clear_line(chat, answer, spans, cause):
    bad = sample(answer=answer, spans=spans)
    for check in (check_answer, chat.encode):
        with pytest.raises(InputError) as caught:
            check(bad)
        message = str(caught.value)
        assert cause in message
        assert message.startswith("film, 'When does the video stutter?'")
        assert "\n" not in message


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("<evi></evi> From <evi> it rains.", "From 3.0 s to 4.2 s it rains."),
        ("<evi><evi></evi> <evi>, <evi>.", "5.0 s to 6.0 s, 7.5 s to 8.0 s."),
        ("It rains <evi>", "It rains 1.0 s to 2.0 s"),
        ("nothing", "nothing"),
        ("<evi></evi> then", "then"),
        # What a model may say before it is trained: more mentions than it grounded.
        ("<evi></evi> <evi> <evi> <evi> <evi>", "3.0 s to 4.2 s 5.0 s to 6.0 s 7.5 s to 8.0 s ?"),
        ("", ""),
    ],
)
def test_spoken_mentions_become_seconds(answer, expected):
    spans = np.array([[1.0, 2.0], [3.0, 4.25], [5.0, 6.0], [7.5, 8.0]])
    assert render(answer, spans) == expected


def test_tokenizers_that_do_not_fit(tmp_path, chat):
    with pytest.raises(InputError, match=r"data\.template='phi4'.*phi3"):
        load_chat("tiny", "phi4")
    with pytest.raises(InputError, match=r"tokenizer\.json is not there"):
        load_chat(str(tmp_path), "phi3")
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(InputError, match="not a tokenizer"):
        load_chat(str(tmp_path), "phi3")
    path.write_text(chat.tokenizer.to_str().replace("<|end|>", "<|END|>"))
    with pytest.raises(InputError, match=r"no '<\|end\|>': it is not one for this data\.template"):
        load_chat(str(tmp_path), "phi3")


# What the released code feeds a model with one video and one question; each special token is one.
RENDERED = {
    "phi3": (
        "<|system|> \n You are a helpful AI assistant. <|end|> \n <|user|> \n V \nWhy? <|end|> \n "
        "<|assistant|> \n"
    ),
    "llama3": (
        "<|begin_of_text|> <|start_header_id|> system <|end_header_id|> \nYou are a helpful AI "
        "assistant <|eot_id|> \n <|start_header_id|> user <|end_header_id|> \n V \nWhy? <|eot_id|> "
        "\n <|start_header_id|> assistant <|end_header_id|> \n"
    ),
    "qwen2": (
        "<|im_start|> system\nYou are a helpful assistant. <|im_end|> \n <|im_start|> user\n V "
        "\nWhy? <|im_end|> \n <|im_start|> assistant\n"
    ),
    "qwen3": "<|im_start|> user\n V \nWhy? <|im_end|> \n <|im_start|> assistant\n",
    "smollm2": (  # of SmolLM2-Instruct's own tokenizer
        "<|im_start|> system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face "
        "<|im_end|> \n <|im_start|> user\n V \nWhy? <|im_end|> \n <|im_start|> assistant\n"
    ),
    "gemma2": ("<bos> <start_of_turn> user\n V \nWhy? <end_of_turn> \n <start_of_turn> model\n"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates(name, chat, tmp_path):
    """A tokenizer of bytes that knows the template's tokens, and not those of evidence."""
    wanted = RENDERED[name]
    marks = [word for word in wanted.split() if word[0] == "<" and word[-1] == ">"]
    marks += [TEMPLATES[name].pad]
    bare = Tokenizer(models.BPE(vocab={x: i for i, x in enumerate(ALPHABET)}, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    bare.add_special_tokens([*dict.fromkeys(marks)])
    bare.save(str(tmp_path / "tokenizer.json"))
    made = load_chat(str(tmp_path), name)
    encoded = made.encode(sample(question="Why?", answer="<evi></evi> In <evi>.", spans=ONE))
    said = made.tokenizer.decode(encoded.prompt.tolist(), skip_special_tokens=False)
    assert said.replace("<frame>" * 6, "V").replace(" ", "") == wanted.replace(" ", "")
    text = made.decode(encoded.response.tolist())
    assert text == "<evi></evi> In <evi>."
    assert encoded.response[-1] == made.end_id == bare.token_to_id(TEMPLATES[name].end)
    # Behind all others, in this order.
    size = bare.get_vocab_size()
    tokens = ("<evi>", "</evi>", "<frame>")
    assert [made.tokenizer.token_to_id(token) for token in tokens] == [size, size + 1, size + 2]
    assert made.vocab_size == size + 3


def test_a_system_text_of_ones_own(chat):
    asked = sample(question="Why?")
    for name, wanted in {
        "phi3": "<|system|>Be brief.<|end|><|user|>V\nWhy?<|end|><|assistant|>",
        "gemma2": "<bos><start_of_turn>user\nBe brief.\n\nV\nWhy?<end_of_turn>\n"
        "<start_of_turn>model\n",
        "qwen3": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nV\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n",
    }.items():
        made = open_chat(DataConfig(template=name, system="Be brief."))
        said = made.tokenizer.decode(made.encode(asked).prompt.tolist(), skip_special_tokens=False)
        assert said.replace("<frame>" * 6, "V") == wanted
    # The tokenizer that is shipped is for all templates, and by default as it was.
    assert open_chat(DataConfig()).vocab_size == chat.vocab_size


def test_another_end_of_turn(chat):
    template = dataclasses.replace(TEMPLATES["phi3"], end="<|endoftext|>")
    other = Chat(Tokenizer.from_str(chat.tokenizer.to_str()), template)
    response = other.encode(sample(answer="yes")).response
    assert response[-1] == other.end_id == other.pad_id != chat.end_id
