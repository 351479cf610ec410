import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tgvlm_jax.train import metrics
from tgvlm_jax.train.metrics import CompileCounter, MetricsWriter, read_metrics
from tgvlm_jax.types import InputError

COEFFICIENTS = {"language": 1.0, "grounding": 10.0}


def record(step):
    return {"step": step, "loss": 1.0 / step}


def write(path, steps, *, resume_step=0, total_steps=10):
    writer = MetricsWriter(path, resume_step=resume_step, total_steps=total_steps)
    writer.write([record(step) for step in steps])
    writer.close()


def steps(path):
    return [line["step"] for line in read_metrics(path)]


def test_lines_are_json_and_are_appended(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path, resume_step=0, total_steps=10)
    writer.write([record(1), record(2)])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [record(1), record(2)]
    writer.write([])
    writer.write([record(3)])
    writer.close()
    assert read_metrics(path) == [record(1), record(2), record(3)]
    assert "step 3/10  loss 0.333" in capsys.readouterr().out


def test_resuming_drops_the_steps_that_will_be_run_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2, 3, 4, 5])
    write(path, [4, 5, 6], resume_step=3)
    assert steps(path) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', "\0\0\0", '{"step": 3, "loss": 0.5}x'])
def test_a_torn_last_line_is_ignored_and_then_written_over(torn, tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2])
    with path.open("a") as file:
        file.write(torn)
    assert steps(path) == [1, 2]
    write(path, [3], resume_step=2)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_no_file_holds_no_records(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_process_that_does_not_write_leaves_no_file(tmp_path):
    writer = MetricsWriter(tmp_path / "m.jsonl", resume_step=0, total_steps=2, writes=False)
    writer.write([record(1)])
    writer.close()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line():
    writer = MetricsWriter.__new__(MetricsWriter)
    writer.path, writer.writes, writer._bar = "/dev/full", True, None
    writer._file = open("/dev/full", "w")  # noqa: SIM115
    with pytest.raises(InputError, match=r"/dev/full: cannot be written \(No space left"):
        writer.write([record(1)])
    with pytest.raises(InputError, match="No space left"):
        writer.close()


def test_a_terminal_gets_a_bar(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    write(tmp_path / "m.jsonl", [1, 2])
    out, err = capsys.readouterr()
    assert not out
    assert "2/10" in err
    assert "loss 0.5" in err


def test_only_here_are_sums_divided():
    found = metrics.divide(
        {
            "language.sum": jnp.float32(6.0),
            "language.weight": jnp.float32(4.0),
            "grounding.sum": np.float32(3.0),
            "grounding.weight": np.float32(0.0),  # no sample had evidence
            "grad_norm": 2.5,
            "compiles": 3,
        },
        COEFFICIENTS,
    )
    assert found == {
        "loss": 31.5,
        "language": 1.5,
        "grounding": 3.0,
        "grad_norm": 2.5,
        "compiles": 3.0,
    }


def test_the_counter_counts_programs_and_not_calls():
    counter = CompileCounter()
    double = jax.jit(lambda x: 2 * x + 17)
    double(jnp.ones(3, "int32").block_until_ready())
    before = counter.count
    double(np.ones(3, "int32"))
    assert counter.count == before
    seconds = counter.seconds
    double(np.ones(4, "int32"))
    assert counter.count == before + 1
    assert counter.seconds > seconds > 0
