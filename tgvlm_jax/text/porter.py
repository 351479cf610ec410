"""The stemmer of the ROUGE scores in use: Porter's of 1980 with the changes of NLTK.

Rules: M. F. Porter, "An algorithm for suffix stripping", Program 14(3), 1980; the departures are
marked. METEOR wants a later one of his.
"""

import functools
import re
from collections.abc import Callable, Sequence

# NLTK: as they are, or as they should be.
_IRREGULAR = {
    "skies": "sky", "sky": "sky", "dying": "die", "lying": "lie", "tying": "tie", "news": "news",
    "innings": "inning", "inning": "inning", "outings": "outing", "outing": "outing",
    "cannings": "canning", "canning": "canning", "howe": "howe", "proceed": "proceed",
    "exceed": "exceed", "succeed": "succeed",
}  # fmt: skip
# Each list is tried in this order, and the first ending that fits decides.
_STEP_2 = (
    ("ational", "ate"), ("tional", "tion"), ("enci", "ence"), ("anci", "ance"), ("izer", "ize"),
    ("bli", "ble"), ("alli", "al"), ("entli", "ent"), ("eli", "e"), ("ousli", "ous"),
    ("ization", "ize"), ("ation", "ate"), ("ator", "ate"), ("alism", "al"), ("iveness", "ive"),
    ("fulness", "ful"), ("ousness", "ous"), ("aliti", "al"), ("iviti", "ive"), ("biliti", "ble"),
    ("fulli", "ful"), ("logi", "log"),
)  # fmt: skip
_STEP_3 = (
    ("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""),
    ("ness", ""),
)  # fmt: skip
_STEP_4 = (
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou",
    "ism", "ate", "iti", "ous", "ive", "ize",
)  # fmt: skip
_VOWEL_THEN_CONSONANT = re.compile("v+c+")


@functools.lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """The stem of a lower-case word; those of one or two letters stay (NLTK)."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 2:
        return word
    for step in (_step_1a, _step_1b, _step_1c, _step_2, _step_3, _step_4, _step_5):
        word = step(word)
    return word


def _shape(word: str) -> str:
    """v for each vowel and c for each consonant; y is a vowel behind a consonant."""
    shape = ""
    for letter in word:
        vowel = letter in "aeiou" or (letter == "y" and shape.endswith("c"))
        shape += "v" if vowel else "c"
    return shape


def _measure(word: str) -> int:
    return len(_VOWEL_THEN_CONSONANT.findall(_shape(word)))


def _short(word: str) -> bool:
    """Ends consonant, vowel, consonant; NLTK: or is a vowel and a consonant."""
    shape = _shape(word)
    return (shape.endswith("cvc") and word[-1] not in "wxy") or shape == "vc"


def _double(word: str) -> bool:
    return len(word) > 1 and word[-1] == word[-2] and _shape(word)[-1] == "c"


def _replaced(
    word: str, rules: Sequence[tuple[str, str]], allowed: Callable[[str, str], bool]
) -> str:
    for ending, replacement in rules:
        if word.endswith(ending):
            base = word.removesuffix(ending)
            return base + replacement if allowed(base, ending) else word
    return word


def _step_1a(word: str) -> str:
    if word.endswith("ies") and len(word) == 4:  # NLTK: dies -> die
        return word[:-1]
    rules = (("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", ""))
    return _replaced(word, rules, lambda base, ending: True)


def _step_1b(word: str) -> str:
    if word.endswith("ied"):  # NLTK: died -> die, denied -> deni
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    for ending in ("ed", "ing"):
        base = word.removesuffix(ending)
        if base != word and "v" in _shape(base):
            break
    else:
        return word
    if base.endswith(("at", "bl", "iz")):
        return base + "e"
    if _double(base):
        return base if base[-1] in "lsz" else base[:-1]
    return base + "e" if _measure(base) == 1 and _short(base) else base


def _step_1c(word: str) -> str:
    """NLTK: enjoy stays, and so does by."""
    base = word[:-1]
    return base + "i" if word[-1] == "y" and len(base) > 1 and _shape(base)[-1] == "c" else word


def _step_2(word: str) -> str:
    if word.endswith("alli") and _measure(word[:-4]) > 0:  # NLTK: and once more
        return _step_2(word[:-2])

    def allowed(base: str, ending: str) -> bool:
        return _measure(base + "l" if ending == "logi" else base) > 0

    return _replaced(word, _STEP_2, allowed)


def _step_3(word: str) -> str:
    return _replaced(word, _STEP_3, lambda base, ending: _measure(base) > 0)


def _step_4(word: str) -> str:
    def allowed(base: str, ending: str) -> bool:
        return _measure(base) > 1 and (ending != "ion" or base[-1] in "st")

    return _replaced(word, [(ending, "") for ending in _STEP_4], allowed)


def _step_5(word: str) -> str:
    if word.endswith("e"):
        base = word[:-1]
        if _measure(base) > 1 or (_measure(base) == 1 and not _short(base)):
            word = base
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word
