"""Which source of samples an experiment has: annotated videos, or questions made from any video."""

from typing import Literal

from tgvlm_jax.data.annotated import AnnotatedVideos
from tgvlm_jax.data.hidden_marks import HiddenMarks
from tgvlm_jax.data.looking import LookedInto
from tgvlm_jax.data.pretext import AnomalyGrounding
from tgvlm_jax.data.pretext_source import PretextTasks
from tgvlm_jax.data.shards import open_shards
from tgvlm_jax.data.take_views import TakeViews
from tgvlm_jax.schema import DataConfig

Source = AnnotatedVideos | AnomalyGrounding | PretextTasks | TakeViews | LookedInto | HiddenMarks


def open_source(
    config: DataConfig, split: Literal["train", "eval"], *, size: tuple[int, int] | None, seed: int
) -> Source:
    """Opens the shards and what asks about them.

    That is takes where the config has them, else a file of annotations where it names one for this
    split, else the pretext tasks it names, else anomaly grounding by evidence. Questions that are
    looked into turn by turn (`data.turns`) come from a file, too, or else from marks that are
    hidden in the videos.

    Args:
        size: (height, width) in pixels of the frames given out, None as they are stored.
        seed: fixes the samples.

    Raises:
        InputError: shards or annotations cannot be read, or do not fit the config.
    """
    annotated = config.annotations if split == "train" else config.eval_annotations
    made = PretextTasks if config.tasks else AnomalyGrounding
    kind = AnnotatedVideos if annotated else made
    kind = TakeViews if config.takes else kind
    if config.turns is not None:
        kind = LookedInto if annotated else HiddenMarks
    return kind(open_shards(config.shards), config, size=size, split=split, seed=seed)
