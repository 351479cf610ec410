"""VideoP2R's whole chain on real video: traces made and judged, SFT, PA-GRPO beside plain GRPO.

    tgvlm demo                                # makes the shards of a film
    python benchmarks/pa_grpo.py              # about three minutes a seed on one core

Clips of two seconds are cut out of a film, each half of a clip is changed in one of five ways, and
the question is what is wrong with it first, or last. A model that was told little writes traces
(`tgvlm cot`), a second one, which reads text alone, judges whether their observations suffice; what
is kept teaches the model of each seed, which is then rewarded twice, by PA-GRPO and by GRPO, with
the same questions, keys and settings. Writes benchmarks/results/pa_grpo.*.
"""

import argparse
import dataclasses
import json
import os
import platform
from pathlib import Path

import av
import jax
import numpy as np

from tgvlm_jax.cli import cot_run, session
from tgvlm_jax.config import freeze, load
from tgvlm_jax.data import process_records, tokenizer
from tgvlm_jax.data.anomalies import perturb
from tgvlm_jax.data.chat import open_chat
from tgvlm_jax.data.collate import collate
from tgvlm_jax.data.shard_writer import write_shards
from tgvlm_jax.data.shards import open_shards
from tgvlm_jax.data.templates import TEMPLATES
from tgvlm_jax.evaluation.runner import answer
from tgvlm_jax.judges import judge
from tgvlm_jax.judges.judge import Case, ModelJudge
from tgvlm_jax.models import parameters
from tgvlm_jax.rewards import answers, videop2r
from tgvlm_jax.schema import (
    AdvantageConfig,
    Experiment,
    GrpoConfig,
    PolicyConfig,
    ProcessConfig,
    SamplingConfig,
)
from tgvlm_jax.train import loop, model_folder, optim, state, step
from tgvlm_jax.train.local_model import LocalModel, open_local
from tgvlm_jax.train.metrics import read_metrics
from tgvlm_jax.types import Sample

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "tiny.py"
WRONG = {
    "grayscale": "it has no colour",
    "invert": "it is inverted",
    "rotate180": "it is upside down",
    "noise": "it is full of noise",
    "zoom_out": "it has a black frame",
}
LETTERS = dict(zip("ABCDE", WRONG.values(), strict=True))
FRAMES, CREDITS = 8, 480.0  # the film's end, in seconds, shows letters alone
WAYS = {"PA-GRPO": "separate", "GRPO": "reasoning"}
TERMS = ("accuracy", "format", "length")
PROMPTS, ANSWERS = 4, 8  # a step of reinforcement learning
JUDGED = 64  # tokens of a verdict


# ---------------------------------------------------------------------------------- questions


def make_clips(film: Path, out: Path, *, train: int, held_out: int) -> dict[str, list[dict]]:
    """Clips and questions about them, from the first two thirds of the film and from the rest."""
    shards, rng = open_shards(film), np.random.default_rng(0)
    (video, *_) = shards.video_ids
    last = int(np.searchsorted(shards.seconds(video), CREDITS)) - FRAMES
    places = {"train": (0, last * 2 // 3 - FRAMES), "eval": (last * 2 // 3, last)}
    records: dict[str, list[dict]] = {}
    files, counts = {}, {"train": train, "eval": held_out}
    (out / "films").mkdir(parents=True, exist_ok=True)
    for split, count in counts.items():
        records[split] = []
        for number in range(count):
            start = int(rng.integers(*places[split]))
            clip = shards.frames(video, start, start + FRAMES).copy()
            pair = rng.choice(list(WRONG), 2, replace=False).tolist()
            for half, kind in enumerate(pair):
                part = slice(half * FRAMES // 2, (half + 1) * FRAMES // 2)
                clip[part] = perturb(clip[part], kind, rng=rng)
            name = f"{split}{number:04d}"
            files[name] = out / "films" / f"{name}.mp4"
            if not files[name].exists():
                encode(files[name], clip)
            records[split].append(record(name, pair, which=int(rng.integers(2))))
    write_shards(files, out / "shards", fps=4, height=72, width=128, progress=False)
    for split, made in records.items():
        (out / f"{split}.json").write_text(json.dumps(made, indent=1))
    return records


def encode(path: Path, clip: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4, options={"crf": "18"})
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame))))
        container.mux(stream.encode())


def record(name: str, pair: list[str], *, which: int) -> dict:
    """A question in the released schema; `pair` is what is really wrong, for the first teacher."""
    options = [f"{letter}. {text}" for letter, text in LETTERS.items()]
    (truth,) = (letter for letter, text in LETTERS.items() if text == WRONG[pair[which]])
    return {
        "problem": f"What is wrong with the picture {('first', 'last')[which]}?",
        "options": options,
        "solution": f"<answer>{truth}</answer>",
        "path": f"{name}.mp4",
        "data_type": "video",
        "problem_type": "multiple choice",
        "problem_id": name,
        "pair": pair,
    }


def true_trace(one: dict) -> str:
    first, last = (WRONG[kind] for kind in one["pair"])
    letter = process_records.parse(one).truth
    return (
        f"<observation>Based on the question, I need to notice changes: at first {first}, later "
        f"{last}.</observation><think>Based on the observations, {LETTERS[letter]}, so {letter}."
        f"</think><answer>{letter}</answer>"
    )


# ------------------------------------------------------------------------------------ stages


def experiment(data: Path, annotations: Path, *, seed: int, steps: int) -> Experiment:
    """Supervised; model and optimiser are those of configs/tiny.py:pretext."""
    one = freeze(load(f"{CONFIG}:pretext,frames={FRAMES}"), Experiment)
    changed = dataclasses.replace(
        one.data,
        shards=str(data / "shards"),
        annotations=str(annotations),
        tokenizer=str(data / "tokenizer"),
        instruction="process_brief",
        tasks=(),
        skip_seconds=(),
        min_seconds=0.0,
        strides=(1,),
        prompt_bucket=64,
    )
    return dataclasses.replace(
        one,
        seed=seed,
        data=changed,
        train=dataclasses.replace(one.train, steps=steps, log_every=20, keep=1),
        evaluation=dataclasses.replace(one.evaluation, batch_size=16, max_tokens=64),
    )


def rewarded(one: Experiment, annotations: Path, start: Path, *, way: str, steps: int):
    """The same with rewards; segments of 10 to 40 tokens are rewarded for their length."""
    process = ProcessConfig(
        advantages=WAYS[way],  # pyright: ignore[reportArgumentType]
        perception_tokens=(10, 40),
        reasoning_tokens=(10, 40),
    )
    objective = GrpoConfig(
        reward="process",
        process=process,
        num_generations=ANSWERS,
        max_tokens=64,
        sampling=SamplingConfig(temperature=1.0),
        advantage=AdvantageConfig(epsilon=1e-4),
        policy=PolicyConfig(aggregation="sequence_mean"),
    )
    return dataclasses.replace(
        one,
        seed=one.seed + 1000,
        objective=objective,
        data=dataclasses.replace(one.data, annotations=str(annotations), batch_size=PROMPTS),
        optim=dataclasses.replace(
            one.optim, name="adamw", lr=5e-5, weight_decay=0.0, warmup_steps=2
        ),
        train=dataclasses.replace(one.train, steps=steps, init_from=str(start), log_every=10),
    )


def train_judge(one: Experiment, out: Path, records: list[dict], *, steps: int) -> None:
    """A model that reads a case and says Yes or No; in text alone, made up from the questions."""
    rng, chat = np.random.default_rng(1), open_chat(one.data, one.model)
    chat.instruction = ""
    blueprint = parameters.blueprint(one.model)
    tx = optim.build(one.optim, blueprint.shapes, matrices=blueprint.matrices, steps=steps)
    current = jax.jit(lambda: state.create(one, tx))()
    update = step.make_step(blueprint, tx, one)
    for number in range(steps):
        samples = [judged(records[rng.integers(len(records))], one, rng) for _ in range(16)]
        encoded = [chat.encode(sample) for sample in samples]
        batch = collate(samples, encoded, config=one.data, pad_id=chat.pad_id)
        current, metrics = update(current, jax.device_put(batch))
        if number % 25 == 0:
            mean = float(metrics["language.sum"] / metrics["language.weight"])
            print(f"judge, step {number}: {mean:.4f}", flush=True)
    model_folder.save(out, one, current.params, beside={})


def case_of(one: dict, rng: np.random.Generator) -> Case:
    """A question with an observation that half of the time is of other changes."""
    parsed = process_records.parse(one)
    pair = one["pair"]
    if rng.random() < 0.5:
        kinds = [kind for kind in WRONG if WRONG[kind] != LETTERS[parsed.truth]]
        pair = rng.choice(kinds, 2, replace=False).tolist()
    seen = videop2r.observation(true_trace(one | {"pair": pair}))
    return Case(question=parsed.question, answer=parsed.truth, observation=seen)


def judged(one: dict, config: Experiment, rng: np.random.Generator) -> Sample:
    """What a judge should say: what is wanted, what was seen, the verdict."""
    case = case_of(one, rng)
    said = "Yes" if judge.words([case])[0].sufficient else "No"
    seen = case.observation.partition("changes: ")[2]
    why = f"Based on the question, it is {LETTERS[case.answer]}; observations: {seen}"
    return Sample(
        frames=np.zeros((0, *(config.model.frame_size or ()), 3), np.uint8),
        seconds=np.zeros(0),
        duration=0.0,
        question=judge.prompt(case),
        answer=f"{why} <judgement>{said}</judgement>",
        spans=np.zeros((0, 2)),
        video="",
        kind="text",
    )


def agreement(model: LocalModel, records: list[dict]) -> float:
    """How often the judge says on fresh cases what the words of the answer say."""
    rng = np.random.default_rng(2)
    cases = [case_of(one, rng) for one in records]
    found, wanted = ModelJudge(model)(cases), judge.words(cases)
    pairs = zip(found, wanted, strict=True)
    return float(np.mean([one.sufficient == other.sufficient for one, other in pairs]))


# ------------------------------------------------------------------------------------ figures


def held_out(one: Experiment, params, records: list[dict]) -> dict[str, float]:
    """Shares of held-out answers, the likeliest ones and sampled ones."""
    chat = open_chat(one.data, one.model)
    shards = open_shards(one.data.shards)
    videos = cot_run.Videos(shards, one.data)
    parsed = [process_records.parse(each) for each in records]
    samples = [cot_run.sample(each, videos, one.data, one.model.frame_size) for each in parsed]
    found = {}
    for name, temperature in (("likeliest", 0.0), ("sampled", 1.0)):
        said = answer(
            params,
            samples,
            experiment=one,
            chat=chat,
            sampling=SamplingConfig(temperature=temperature),
            key=jax.random.key(0),
        )
        rows = [shares(each.raw, each.sample) for each in said]
        found |= {f"{name}_{key}": float(np.nanmean([row[key] for row in rows])) for key in rows[0]}
    return found


def shares(text: str, sample: Sample) -> dict[str, float]:
    seen = videop2r.observation(text)
    case = Case(question=sample.question, answer=sample.truth, observation=seen)
    clash = videop2r.mismatch(text, LETTERS)
    return {
        "perception": float(bool(seen) and judge.words([case])[0].sufficient),
        "reasoning": answers.multiple_choice(answers.answer_text(text), sample.truth),
        "form": float(videop2r.perception_form(text) and videop2r.reasoning_form(text)),
        "mismatch": float("nan") if clash is None else clash,
    }


def curve(workdir: Path) -> dict[str, list[float]]:
    """Means over the first and the last half of a run's steps."""
    log = read_metrics(workdir / "metrics.jsonl")
    names = [f"{segment}_{term}" for segment in ("perception", "reasoning") for term in TERMS]
    names += ["perception_tokens", "reasoning_tokens", "mismatch"]
    names += ["equal_perception", "equal_reasoning", "equal_groups", "silent_groups"]
    half = len(log) // 2
    parts = (log[:half], log[half:])
    return {
        name: [float(np.mean([line[name] for line in part])) for part in parts] for name in names
    }


def write(found: dict, facts: dict[str, str]) -> None:
    """The tables, and everything as JSON."""

    def spread(values: list[float]) -> str:
        return f"{np.mean(values):.3f} ± {np.std(values):.3f}"

    runs = found["seeds"]
    about = f"mean ± standard deviation over {len(runs)} seeds; both ways from the same SFT"
    facts = facts | {"figures": about}
    lines = ["# Process-aware rewards beside plain GRPO", ""]
    lines += [f"- {key}: {value}" for key, value in facts.items()]
    lines += ["", "While training, first and last half of the steps:", ""]
    heads = [f"{way}, {part}" for way in WAYS for part in ("first", "last")]
    lines += [f"| per step | {' | '.join(heads)} |", "| --- |" + " ---: |" * 4]
    for name in runs[0]["PA-GRPO"]["curve"]:
        cells = [
            spread([one[way]["curve"][name][part] for one in runs])
            for way in WAYS
            for part in (0, 1)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "Held out:", "", "| share of answers | after SFT | PA-GRPO | GRPO |"]
    lines += ["| --- | ---: | ---: | ---: |"]
    for name in runs[0]["SFT"]["held_out"]:
        cells = [spread([one[way]["held_out"][name] for one in runs]) for way in ("SFT", *WAYS)]
        lines.append(f"| {name.replace('_', ', ')} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    print(text, flush=True)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "pa_grpo.md").write_text(text)
    record = json.dumps({"facts": facts} | found, indent=1)
    (HERE / "results" / "pa_grpo.json").write_text(record + "\n")


def prepare(options: argparse.Namespace) -> dict[str, list[dict]]:
    """Clips, tokenizer, the first teacher's traces."""
    data = options.workdir
    records = make_clips(options.shards, data, train=options.clips, held_out=options.held_out)
    rng = np.random.default_rng(3)
    corpus = [true_trace(one) for one in records["train"]]
    corpus += [judge.prompt(case_of(one, rng)) for one in records["train"][:100]]
    corpus += [process_records.parse(one).question for one in records["train"]]
    corpus += ["<judgement>Yes</judgement> <judgement>No</judgement>"] * 50
    corpus += [TEMPLATES["phi3"].before(), "<observation>, <think>, <answer>?"] * 50
    tokenizer.save(tokenizer.train_tokenizer(corpus), data / "tokenizer")
    told = [one | {"output": true_trace(one)} for one in records["train"][: options.told]]
    (data / "told.json").write_text(json.dumps(told))
    return records


def make_traces(options: argparse.Namespace, records: dict[str, list[dict]]) -> dict:
    """The teacher, the judge, and the CoT job with both."""
    data = options.workdir
    teacher = experiment(data, data / "told.json", seed=100, steps=options.teacher_steps)
    loop.train(teacher, data / "teacher")
    if not (data / "judge").exists():
        plain = experiment(data, data / "told.json", seed=101, steps=options.judge_steps)
        plain = dataclasses.replace(plain, data=dataclasses.replace(plain.data, instruction=""))
        train_judge(plain, data / "judge", records["train"], steps=options.judge_steps)
    agreed = agreement(open_local(data / "judge", max_tokens=JUDGED), records["eval"])
    counts = cot_run.run(
        cot_run.Options(
            records=str(data / "train.json"),
            shards=str(data / "shards"),
            out=str(data / "cot"),
            checkpoint=str(data / "teacher"),
            judge="local",
            judge_checkpoint=str(data / "judge"),
            batch=16,
            max_tokens=64,
            temperature=1.0,
        )
    )
    print(counts, f"judge agrees on {agreed:.3f}", flush=True)
    return {"cot": dataclasses.asdict(counts), "judge_agreement": agreed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=Path, default=Path("runs/demo/shards"))
    parser.add_argument("--workdir", type=Path, default=Path("runs/pa_grpo"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--clips", type=int, default=800, help="to learn from")
    parser.add_argument("--held_out", type=int, default=96)
    parser.add_argument("--asked", type=int, default=48, help="of those held out")
    parser.add_argument("--told", type=int, default=300, help="clips whose traces are given")
    parser.add_argument("--teacher_steps", type=int, default=110)
    parser.add_argument("--judge_steps", type=int, default=200)
    parser.add_argument("--sft_steps", type=int, default=80)
    parser.add_argument("--steps", type=int, default=30, help="of each kind of GRPO")
    options = parser.parse_args()
    session.prepare_jax()
    data = options.workdir
    records = prepare(options)
    asked = records["eval"][: options.asked]
    found = make_traces(options, records) | {"seeds": []}
    kept = found["cot"]["kept"]
    facts = {
        "film": "Big Buck Bunny, clips of 2 s; trained on two thirds, asked about the rest",
        "chain": f"{options.clips} questions, {kept} traces kept "
        f"({', '.join(f'{why}: {n}' for why, n in found['cot']['dropped'].items() if n)} dropped); "
        f"SFT {options.sft_steps} steps, then {options.steps} steps of {PROMPTS} prompts x "
        f"{ANSWERS} answers",
        "judges": f"of traces a local model, which says on {found['judge_agreement']:.1%} of fresh "
        "cases what the answer's words say; of rewards those words",
        "held out": f"{options.asked} questions",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, in use by others",
    }
    for seed in options.seeds:
        traces, row = data / "cot" / "cot.json.gz", {}
        one = experiment(data, traces, seed=seed, steps=options.sft_steps)
        params = loop.train(one, data / f"sft{seed}").params
        row["SFT"] = {"held_out": held_out(one, params, asked)}
        for way in WAYS:
            print(f"{way}, seed {seed}", flush=True)
            start, workdir = data / f"sft{seed}", data / f"{WAYS[way]}{seed}"
            learns = rewarded(one, data / "train.json", start, way=way, steps=options.steps)
            params = loop.train(learns, workdir).params
            row[way] = {
                "curve": curve(workdir),
                "held_out": held_out(one, params, asked),
            }
        found["seeds"].append(row)
        write(found, facts)


if __name__ == "__main__":
    main()
