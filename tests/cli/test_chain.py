"""From a video file to an answer, verb by verb, as a person goes who meets the library first."""

import json
import re

import pytest

from tests.data.bad_videos import BIKES

INTERVAL = re.compile(r"^  (\d+\.\d) s - (\d+\.\d) s$", re.MULTILINE)


def test_shard_then_train(world):
    assert (world.sharding.status, world.sharding.err) == (0, "")
    assert world.sharding.out.startswith(f"{world.shards}: 1 video, 10.0 s of film\n")
    assert "80 frames at 8 a second, 16 x 16 pixels" in world.sharding.out
    assert (world.training.status, world.training.err) == (0, "")
    assert "step 60/60  loss " in world.training.out
    said = f"{world.run}: 60 steps; now: tgvlm eval --checkpoint {world.run}"
    assert world.training.out.splitlines()[-1] == said
    assert {path.name for path in world.run.iterdir()} == {
        "checkpoints", "experiment.json", "metrics.jsonl"
    }  # fmt: skip


def test_a_finished_run_has_nothing_left_to_do(world, tgvlm, tmp_path):
    world = world.copy(tmp_path)
    said = tgvlm("train", *world.config, "--workdir", world.run)
    assert (said.status, said.err) == (0, "")
    assert said.out.startswith(f"{world.run}: nothing left to do; now: tgvlm eval")


def test_inspect(world, tgvlm):
    said = tgvlm("inspect", "--shards", world.shards, "--verify")
    assert (said.status, said.err) == (0, "")
    row = next(line for line in said.out.splitlines() if line.startswith("bikes"))
    assert row.split() == ["bikes", "10.0", "80", "25.00", "frames-00000.arrayrecord"]
    assert said.out.endswith("all content hashes agree\n")

    said = tgvlm("inspect", "--checkpoint", world.run)
    assert (said.status, said.err) == (0, "")
    assert "small, seed 0\n  checkpoints: at steps 30, 60 of 60\n" in said.out
    parts = re.findall(r"^    (\w+)\.\w+ +([\d,]+)$", said.out, re.MULTILINE)
    total = int(re.search(r"([\d,]+) parameters", said.out)[1].replace(",", ""))
    assert sum(int(size.replace(",", "")) for _, size in parts) == total
    assert {part for part, _ in parts} == {"decoder", "evidence", "tower"}
    assert "  last: step 60  loss " in said.out

    said = tgvlm("inspect", *world.config)
    assert (said.status, said.err) == (0, "")
    assert "\noptim.lr = 0.03\n" in said.out


def test_eval(world, tgvlm, tmp_path):
    out = tmp_path / "deep" / "eval"
    said = tgvlm("eval", "--checkpoint", world.run, "--workdir", out)
    assert (said.status, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[0].split() == ["held-out", "clips", "mIoU", "R@0.3", "R@0.5", "R@0.7"]
    assert [line[:14].strip() for line in lines[2:6]] == [
        "this model", "best constant", "whole clip", "random interva"
    ]  # fmt: skip
    assert {line.split()[0] for line in lines[9:11]} == {"grayscale", "invert"}
    assert lines[-1] == f"look:  {out / 'report.html'}"

    found = json.loads((out / "metrics.json").read_text())
    assert found["held_out"]["count"] == 6
    assert f"{found['held_out']['mean_iou']:.3f}" == lines[2].split()[2]
    assert set(found["blind"]) == {"best constant interval", "whole clip", "random interval"}
    page = (out / "report.html").read_text()
    for words in ("Against answers that never look", "By kind of event", "Training", "Examples"):
        assert f"<h2>{words}</h2>" in page
    assert page.count("data:image/jpeg;base64,") >= 6 * 8


def test_eval_on_other_clips(world, tgvlm, tmp_path):
    """A config may change what is asked; what is not given comes from the run."""
    said = tgvlm(
        "eval", "--checkpoint", world.run, *world.config, "--config.data.kinds=invert",
        "--config.evaluation.samples=3", "--workdir", tmp_path,
    )  # fmt: skip
    assert (said.status, said.err) == (0, "")
    assert "grayscale" not in said.out
    assert json.loads((tmp_path / "metrics.json").read_text())["held_out"]["count"] == 3


@pytest.mark.parametrize(
    ("words", "length"), [([], 10.0), (["--start", "3", "--end", "4"], 1.0), (["--start=8"], 2.0)]
)
def test_ask(world, tgvlm, tmp_path, words, length):
    page, question = tmp_path / "new" / "answer.html", "When are the colours inverted?"
    ask = ["ask", "--checkpoint", world.run, "--video", BIKES, "--out", page]
    said = tgvlm(*ask, *words, question)
    assert (said.status, said.err) == (0, "")
    spans = [tuple(map(float, span)) for span in INTERVAL.findall(said.out)]
    assert bool(spans) != ("\n  no interval\n" in said.out)
    start = 10.0 - length if words == ["--start=8"] else 3.0 if words else 0.0
    assert all(start <= first < last <= start + length for first, last in spans)
    assert said.out.endswith(f"\nlook:  {page}\n")
    assert question in page.read_text()
    assert ("windows" in said.out) == (length > 8 / 4)
    assert list(page.parent.iterdir()) == [page]
