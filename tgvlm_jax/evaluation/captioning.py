"""COCO caption evaluation: Penn Treebank words, BLEU, ROUGE-L, CIDEr-D and METEOR 1.5.

All of it is the package `pycocoevalcap` (extra `eval`), which published figures are made with. Its
tokeniser and METEOR are Java programs, so a Java runtime is needed too; `missing` says what is not
there. METEOR takes seconds to start and then stays: one `CaptionMetrics` a run, in a `with`.
"""

import dataclasses
import importlib.metadata
import importlib.util
import shutil
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from tgvlm_jax.types import InputError

PACKAGE = "pycocoevalcap"


def missing() -> str | None:
    """Why captions cannot be scored here, in one line; None where they can."""
    if importlib.util.find_spec(PACKAGE) is None:
        return f"needs {PACKAGE}: pip install 'tgvlm_jax[eval]'"
    if shutil.which("java") is None:
        return "needs a Java runtime: install one so that `java` is on the PATH"
    return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextScores:
    """A metric of each text, and of all texts together."""

    texts: Float64[np.ndarray, "texts"]
    together: float


class CaptionMetrics:
    """The metrics; texts come tokenised (`tokenised`) with one reference each.

    In every method `tests[i]` is compared with `references[i]`. InputError is raised for no texts
    and for unequal numbers.
    """

    def __init__(self):
        """Starts nothing yet; raises InputError where something is `missing`."""
        if reason := missing():
            raise InputError(f"caption metrics: {reason}")
        self.name = f"{PACKAGE} {importlib.metadata.version(PACKAGE)}"
        self._words: dict[str, str] = {}
        self._meteor: Any = None
        self._scored: dict[tuple[tuple[str, ...], tuple[str, ...]], TextScores] = {}

    def __enter__(self) -> "CaptionMetrics":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends METEOR's process; a later call starts it anew."""
        if self._meteor is not None:
            process = self._meteor.meteor_p
            for pipe in (process.stdin, process.stdout, process.stderr):
                pipe.close()
            process.kill()
            process.wait()
            self._meteor = None

    def learn(self, texts: Iterable[str]) -> None:
        """Tokenises many texts at once: every run of the tokeniser costs a second or more."""
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

        new = sorted({text for text in texts if text not in self._words})
        lines = {text: " ".join(text.splitlines()) for text in new}
        rows = {text: [{"caption": line}] for text, line in lines.items() if line.strip()}
        found = PTBTokenizer().tokenize(rows) if rows else {}
        self._words |= {text: found[text][0] if text in rows else "" for text in new}

    def tokenised(self, text: str) -> str:
        """Lower-case Penn Treebank words joined by blanks; of punctuation only brackets stay."""
        if text not in self._words:
            self.learn([text])
        return self._words[text]

    def meteor(self, tests: Sequence[str], references: Sequence[str]) -> TextScores:
        """METEOR 1.5; `together` is that of the summed statistics, not a mean."""
        key = tuple(tests), tuple(references)
        if key not in self._scored:
            if self._meteor is None:
                from pycocoevalcap.meteor.meteor import Meteor

                self._meteor = Meteor()
            self._scored[key] = _scores(self._meteor, tests, references)
        return self._scored[key]

    def cider(self, tests: Sequence[str], references: Sequence[str]) -> TextScores:
        """CIDEr-D, 0 to 10; rarity is counted in these references, so a single pair scores 0."""
        from pycocoevalcap.cider.cider import Cider

        return _scores(Cider(), tests, references)

    def rouge_l(self, tests: Sequence[str], references: Sequence[str]) -> TextScores:
        """F of the longest common subsequence of words, recall weighing 1.2 squared times."""
        from pycocoevalcap.rouge.rouge import Rouge

        return _scores(Rouge(), tests, references)

    def bleu(self, tests: Sequence[str], references: Sequence[str]) -> Float64[np.ndarray, "4"]:
        """BLEU-1 to BLEU-4 of all texts together."""
        from pycocoevalcap.bleu.bleu import Bleu

        rows = _rows(tests, references)
        return np.array(Bleu(4).compute_score(rows[1], rows[0], verbose=0)[0])


def _rows(tests: Sequence[str], references: Sequence[str]) -> tuple[dict[int, list[str]], ...]:
    if len(tests) != len(references) or not tests:
        raise InputError(
            "texts and references must be as many and at least one: "
            f"{len(tests)}, {len(references)}"
        )
    return tuple({i: [text] for i, text in enumerate(texts)} for texts in (tests, references))


def _scores(metric: Any, tests: Sequence[str], references: Sequence[str]) -> TextScores:
    found, truth = _rows(tests, references)
    together, each = metric.compute_score(truth, found)
    return TextScores(texts=np.asarray(each, np.float64), together=float(together))
