"""The page of sampled answers."""

from tgvlm_jax.report.rollouts import write_rollouts

GROUP = {
    "step": 20,
    "kind": "counting/easy",
    "video": "a<b",
    "question": "How many?",
    "truth": "1,2,3",
    "answers": [{"text": "1,1,1", "reward": 0.5}, {"text": "", "reward": None}],
    "failures": ["counting/easy, a<b: KeyError: 'x'"],
}


def test_the_newest_group_comes_first_and_everything_is_escaped(tmp_path):
    metrics = [{"step": i, "loss": 0.0, "reward": i / 10} for i in range(1, 5)]
    old = GROUP | {"step": 10, "failures": []}
    write_rollouts(tmp_path / "x.html", [old, GROUP], metrics=metrics, title="A & B")
    text = (tmp_path / "x.html").read_text()
    assert text.index("Step 20") < text.index("Step 10")
    assert "A &amp; B" in text
    assert "a&lt;b" in text
    assert "a<b" not in text
    assert "KeyError" in text
    assert text.count("<td>0.500</td>") == 2
    assert text.count("<td>failed</td>") == 2
    assert text.count("<svg") == 1  # of the reward; nothing else was logged


def test_a_run_without_rollouts_has_a_page_too(tmp_path):
    write_rollouts(tmp_path / "x.html", [], metrics=[], title="nothing")
    assert "nothing" in (tmp_path / "x.html").read_text()


def test_conversations_show_the_frames_that_were_looked_at(tmp_path):
    turns = [
        {"frames": [0, 9, 9], "text": "<retrieve>0,9</retrieve>", "terms": {"format": 0.1}},
        {"frames": [4], "text": "<answer>B</answer>", "terms": {}},
    ]
    answers = [{"text": "x", "reward": 1.7, "turns": turns}]
    group = GROUP | {"answers": answers, "pictures": {"0": "QUJD", "9": "REVG", "4": "R0hJ"}}
    metrics = [{"step": i, "right_looks": i / 10} for i in range(1, 5)]
    write_rollouts(tmp_path / "x.html", [group], metrics=metrics, title="looks")
    text = (tmp_path / "x.html").read_text()
    assert text.count("<img") == 3
    assert "data:image/jpeg;base64,REVG" in text
    assert "&lt;retrieve&gt;0,9" in text
    assert "format +0.10" in text
    assert "Reward 1.700" in text
    assert "look where it matters" in text


def test_segments_have_charts(tmp_path):
    metrics = [{"step": i, "perception_accuracy": i / 10, "mismatch": 0.0} for i in range(1, 5)]
    write_rollouts(tmp_path / "x.html", [GROUP], metrics=metrics, title="x")
    text = (tmp_path / "x.html").read_text()
    assert "Accuracy of perception" in text
    assert text.count("<svg") == 2
