# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # When does the picture change?
#
# In this notebook a small video-language model learns to answer a question about a film **and to
# say when**. It is `tgvlm demo`, cell by cell: a film becomes frame shards, questions are made from
# its first two thirds, a model is trained from scratch, and it is asked about the last third, which
# it has never seen.
#
# It takes about four minutes on a laptop without a GPU. Set the environment variable `TGVLM_STEPS`
# to a small number for a quick look.

# %%
# Once, from a clone of the repository (in Colab, `!git clone` it first and give its path):
# # %pip install -q -e "..[notebooks]"

# %%
import dataclasses
import html
import os
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import HTML
from matplotlib.patches import Rectangle

from tgvlm_jax.cli import ask_run, demo_run, results, session
from tgvlm_jax.data.chat import open_chat
from tgvlm_jax.evaluation.runner import evaluate, held_out_samples
from tgvlm_jax.train import loop
from tgvlm_jax.train.metrics import read_metrics

session.prepare_jax()
workdir = Path("runs/quickstart")

# %% [markdown]
# ## 1. The experiment
#
# Every setting has one home, `tgvlm_jax/schema.py`, and an experiment is a short Python file that
# changes some of them: here `configs/tiny.py`.

# %%
experiment = demo_run.load_experiment(shards=workdir / "shards")
if "TGVLM_STEPS" in os.environ:
    steps = int(os.environ["TGVLM_STEPS"])
    experiment = dataclasses.replace(
        experiment, train=dataclasses.replace(experiment.train, steps=steps)
    )
experiment.train

# %% [markdown]
# ## 2. The film
#
# *Big Buck Bunny* (© 2008 Blender Foundation, CC BY 3.0) comes with the library. It is decoded
# once, into JPEG frames with the second at which each of them is on screen; later runs find them
# there.

# %%
demo_run.shard_film(experiment)

# %% [markdown]
# ## 3. A question
#
# No annotation is needed. Something is done to a stretch of a clip, and the model is asked when.
# The frames in orange are those that were changed.

# %%
sample = held_out_samples(experiment, size=(72, 128))[1]
start, end = sample.spans[0]

figure, axes = plt.subplots(len(sample.frames) // 8, 8, figsize=(12, len(sample.frames) / 8))
for axis, frame, second in zip(axes.flat, sample.frames, sample.seconds, strict=True):
    axis.imshow(frame)
    axis.set_title(f"{second:.1f} s", fontsize=8)
    axis.set_axis_off()
    if start <= second < end:
        corner, size = (0, 0), (frame.shape[1], frame.shape[0])
        axis.add_patch(Rectangle(corner, *size, fill=False, edgecolor="tab:orange", linewidth=4))
plt.show()

print(sample.question)
print(sample.answer)
print(f"{start:.1f} s - {end:.1f} s")

# %% [markdown]
# The answer has two kinds of words. `<evi>` before `</evi>` is an evidence token: when the model
# writes it, its state is compared with every frame, and the frames that agree are the interval.
# The sentence after it refers to the same interval. Read more in `tgvlm_jax/models/evidence.py`.
#
# ## 4. Training
#
# If the cell is stopped, running it again goes on from the last checkpoint; a finished run is
# loaded.

# %%
run = workdir / f"steps{experiment.train.steps}"
trained = loop.train(experiment, run)

# %%
records = read_metrics(run / "metrics.jsonl")
figure, axes = plt.subplots(1, 3, figsize=(12, 3))
for axis, name in zip(axes, ("language", "grounding", "consistency"), strict=True):
    axis.plot([record["step"] for record in records], [record[name] for record in records])
    axis.set_title(f"{name} loss")
    axis.set_xlabel("step")
plt.show()

# %% [markdown]
# ## 5. Evaluation
#
# The model is asked about clips of the last third of the film. IoU is the overlap of its interval
# with the true one, from 0 to 1. Beside it stand answers that never look at the video: the best
# single interval there is, the whole clip, and chance.

# %%
chat = open_chat(experiment.data)
found = evaluate(trained.params, experiment=experiment, chat=chat)
print(session.result_tables(found, name="this model"))

# %% [markdown]
# The report shows examples, good and bad: the film strip, the true interval, the model's interval
# and what it believed about every frame. It is one HTML file that works without a network.


# %%
def show(page: Path, height: int = 640) -> HTML:
    """A page in the notebook, wherever the notebook runs."""
    document = html.escape(page.read_text())
    frame = f'<iframe srcdoc="{document}" width="100%" height="{height}" frameborder="0"></iframe>'
    return HTML(f"<div>{frame}</div>")


results.write(workdir / "eval", found, experiment=experiment, run=run)
show(workdir / "eval" / "report.html")

# %% [markdown]
# ## 6. Your own question
#
# A clip as a video file, and the question that goes with it. Put any other film and question here;
# the model knows those that it was trained for.

# %%
clip = workdir / "example.mp4"
question = demo_run.write_example(clip, found.answered)
print(question)

# %%
page = workdir / "answer.html"
ask_run.run(run, clip, question=question, out=page)
show(page, height=420)

# %% [markdown]
# ## What next
#
# - `tgvlm --help` shows the same steps as commands, and `tgvlm train` runs any experiment.
# - `docs/architecture.md` says where everything is.
# - `configs/tiny.py` is a good file to copy and change.
