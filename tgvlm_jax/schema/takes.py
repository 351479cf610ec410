"""Takes that several cameras see at the same time, as in Ego-Exo4D (ProfVLM 3)."""

import dataclasses
from typing import Literal

from tgvlm_jax.schema.checks import positive
from tgvlm_jax.types import InputError

PROFICIENCY = ("Novice", "Early Expert", "Intermediate Expert", "Late Expert")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TakesConfig:
    """How `data.annotations` (proficiency of takes) become questions about several views.

    Attributes:
        views: names in `video_paths`, in the order in which a model gets them.
        levels: labels, from the lowest to the highest.
        commentary, eval_commentary: Ego-Exo4D's expert commentary; "" answers with the label alone.
        records: what is trained on, "experts": every expert's commentary on a take, those without
            left out, or "takes": every take once.
        protocol: what is evaluated, "official": every take once; "authors": a record for every
            expert, and the scenario by a word in the path, as in the authors' own tables.
        label: whether the label stands before the commentary, or after it (the prototype).
        commentary_tokens: a commentary is cut at the last sentence that ends within so many.
        window: seconds that the frames of a clip span. Training draws where it lies.
        eval_window: in the "centre", or frames "uniform" over the whole take.
        independent_windows: every view has a window of its own, as in the authors' code.
        features: folder that `tgvlm features` wrote; "" runs the encoder.
        windows: for `tgvlm features`, how many windows of a take training draws from.
        question: what is asked.
    """

    views: tuple[str, ...] = ("ego", "exo1", "exo2", "exo3", "exo4")
    levels: tuple[str, ...] = PROFICIENCY
    commentary: str = ""
    eval_commentary: str = ""
    records: Literal["experts", "takes"] = "experts"
    protocol: Literal["official", "authors"] = "official"
    label: Literal["first", "last"] = "first"
    commentary_tokens: int = 200
    window: float = 32 / 30
    eval_window: Literal["centre", "uniform"] = "centre"
    independent_windows: bool = False
    features: str = ""
    windows: int = 8
    question: str = "How proficient is this performance? State the level, then say why."

    def __post_init__(self):
        positive(self, "commentary_tokens", "windows")
        for name in ("views", "levels"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise InputError(f"{name}={values}: name at least one, and each once")
        if self.window <= 0:
            raise InputError(f"window={self.window}: give seconds, more than 0")
        if self.features and (self.independent_windows or self.eval_window == "uniform"):
            raise InputError("cached features are of common windows; set features='' or the others")
