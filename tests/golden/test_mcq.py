"""Multiple choice and numbers: what each benchmark's script reads from an answer."""

import json

import pytest

from tgvlm_jax.evaluation import choice_rules, choices, number_rules, relative_accuracy

STOPS = {"raises": "IndexError"}


@pytest.fixture
def recorded(suite):
    return json.loads((suite / "per_string.json").read_text())


def test_letters(recorded):
    for row in recorded["choice"]:
        text, gold, letter = row["output"], row["mvbench_gt"], row["gt_letter"]
        ours = {
            "videomme_d2vlm_letter": choices.videomme_letter(text),
            "lmms_eval_letter_abcd": choice_rules.lmms_eval_letter(text),
            "mvbench_d2vlm_correct": choices.mvbench_right(text, gold),
            "mvbench_timechat_correct": choices.mvbench_right_timechat(text, gold),
            "mlvu_correct": choice_rules.mlvu_right(text, gold),
            "videor1_reward": float(choice_rules.videor1_right(text, letter)),
            "videor1_answer": choice_rules.tagged_answer(text),
            "videor1_think": choice_rules.tagged_thinking(text),
            "vsibench_fuzzy": choice_rules.vsibench_option(text),
            "vsibench_exact": float(choice_rules.vsibench_right(text, letter)),
            "videommmu_choice": choice_rules.videommmu_option(text, row["options"]),
            "tempcompass_yes_no": choice_rules.tempcompass_yes_no(text) or False,
        }
        assert ours == {name: row[name] for name in ours}, text
        first = choice_rules.videossr_letter(text)
        assert row["videossr_vqa_first_char"] == (STOPS if first is None else first)
        assert row["videossr_vqa_correct"] == (STOPS if first is None else first == letter)


def test_rules_that_may_need_a_judge(recorded):
    for row in recorded["choice"]:
        text = row["output"]
        right = choice_rules.tempcompass_letter(text, row["tempcompass_gt"])
        expected = row["tempcompass_mc"]
        assert (right is not None, int(bool(right))) == (
            expected["match_success"],
            expected["rating"],
        )
        right = choice_rules.tempcompass_caption(
            text, row["tempcompass_cm_question"], row["tempcompass_cm_gt"]
        )
        assert row["tempcompass_cm"] == ("fail" if right is None else int(right))


def test_numbers(recorded):
    for row in recorded["numeric"]:
        text, gold = row["output"], row["gt"]
        assert float(number_rules.videor1_numerical(text, gold)) == row["videor1_numerical"]
        ours = number_rules.videor1_regression(text, gold)
        assert ours == pytest.approx(row["videor1_regression"], abs=1e-6)
        # The recorded function stops at what is no number; its caller counts that as 0.
        expected = 0.0 if isinstance(row["vsibench_mra"], dict) else row["vsibench_mra"]
        assert number_rules.vsibench_number(text, gold) == pytest.approx(expected, abs=1e-12)
        if text:
            found = sorted(map(repr, number_rules.videommmu_open(text)))
            assert found == sorted(row["videommmu_open_parsed"]), text
        right = number_rules.videommmu_open_right(text, gold)
        assert right == row["videommmu_open_correct"]


def test_mean_relative_accuracy(recorded):
    for row in recorded["mra_grid"]:
        arguments = row["pred"], row["gt"]
        ours = relative_accuracy.mean_relative_accuracy(*arguments)
        assert ours == pytest.approx(row["videor1"], abs=1e-6)
        ours = relative_accuracy.vsibench_accuracy(*arguments)
        assert ours == pytest.approx(row["vsibench"], abs=1e-12)


def test_lists_of_numbers(recorded):
    for row in recorded["vcr_rules"]:
        found = number_rules.vcrbench_lists(row["pred"], row["gt"])
        assert found.kind == row["kind"]
        assert found.right == row.get("correct")
        assert found.iou == pytest.approx(row.get("iou"), abs=1e-12)


def test_mvbench(suite):
    groups = json.loads((suite / "mvbench_results.json").read_text())
    rows = [row for group in groups.values() for row in group]
    result = choices.mvbench_accuracy(
        [(row["task_type"], row["A"]) for row in rows], [row["pred"] for row in rows]
    )
    lines = [f"{task} Acc: {percent:.2f}%" for task, percent, _ in result.tables[0].rows]
    lines.append(f"Total Acc: {result.overall:.2f}%")
    expected = (suite / "mvbench_expected.txt").read_text().split("\n")
    assert sorted(lines) == sorted(line for line in expected if line)


def test_videomme(suite):
    """Every percentage of the printed report, section by section."""
    loaded = choices.read_videomme(suite / "videomme_records.json")
    assert loaded.problems == []
    rows = json.loads((suite / "videomme_records.json").read_text())
    result = choices.score_videomme(loaded.records, [row["a"] for row in rows])
    tables = {table.title: {row[0]: row[1] for row in table.rows} for table in result.tables}
    part, section, compared = "", "", 0
    for line in (suite / "videomme_expected.txt").read_text().split("\n"):
        if line.startswith("Evaluation on"):
            part = f", {line.split()[-1]}" if "Type" in line else ""
        elif line in SECTIONS:
            section = SECTIONS[line]
        elif line.endswith("%"):
            name, percent = line.removesuffix("%").split(": ")
            if name == "Overall":
                by_duration = tables["Video-MME by duration"]
                ours = by_duration[part.removeprefix(", ")] if part else result.overall
            else:
                ours = tables[f"Video-MME by {section}{part}"].get(name, 0.0)
            assert f"{ours:.1f}" == percent, (part, section, name)
            compared += 1
    assert compared > 100


SECTIONS = {
    "Video Categories": "domain",
    "Video Domains": "domain",
    "Video Sub Categories": "sub category",
    "Task Categories": "task type",
}
