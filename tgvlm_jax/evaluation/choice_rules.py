"""How other benchmarks read a chosen option: MLVU, Video-R1, VSI-Bench, VideoMMMU, TempCompass,
VideoSSR, Video-MTR, LVBench, LongVideoBench, lmms-eval. Each is its published script's rule, with
the quirks that its figures rest on.
"""

import re
from collections.abc import Sequence
from typing import Literal

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_LETTERS = "ABCDEFGHIJKLMN"

# After which lmms-eval expects a letter; the first place of each phrase counts.
_LMMS_PHRASES = (
    *(f"{which} is" for which in ("the answer", "answer", "the choice", "choice", "my answer")),
    *(f"{the}correct {what} is" for the in ("the ", "") for what in ("answer", "option", "choice")),
    *(f"{the}best {what} is" for the in ("the ", "") for what in ("answer", "option")),
    *("my choice is", "i choose", "i select", "i pick"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)

_LAST_TURN = re.compile(r"<think>.*?</think>\s*<answer>(.*?)</answer>", re.DOTALL)
# LongVideoBench deletes them wherever they occur, in this order.
_LONG_PHRASES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
)

NO_RESPONSE = "API Error"
NO_ANSWER = "No Answere Found"


def mlvu_right(answer: str, gold: str) -> bool:
    """MLVU: the character before the first ")", or the whole answer, is the gold letter.

    Args:
        answer: what the model said. gold: "(B) text".
    """
    if ")" in answer:
        place = answer.index(")")
        answer = answer[place - 1 : place]
    return answer == gold[gold.index("(") + 1 : gold.index(")")]


def tagged_answer(text: str) -> str:
    """Video-R1: what stands in the first <answer> tags, trimmed; "" without any."""
    found = _ANSWER.search(text)
    return found[1].strip() if found else ""


def tagged_thinking(text: str) -> str:
    """Video-R1: what stands in the first <think> tags, trimmed; "" without any."""
    found = _THINK.search(text)
    return found[1].strip() if found else ""


def videor1_right(text: str, gold: str) -> bool:
    """Video-R1: the tagged answer, or the whole text where it is missing, is the gold letter."""
    return (tagged_answer(text) or text).strip() == gold.strip()


def vsibench_option(text: str) -> str:
    """VSI-Bench: the text before the first blank without its final periods."""
    return text.split(" ")[0].rstrip(".").strip()


def vsibench_right(text: str, gold: str) -> bool:
    """VSI-Bench: `vsibench_option` is the gold letter, case ignored."""
    return vsibench_option(text).lower() == gold.lower()


def videommmu_option(text: str, options: Sequence[str]) -> str:
    """VideoMMMU: the letter of the option that an answer names.

    "A." and "A:" count first, then "(A)", then "A ", then in answers of more than five words the
    text of an option; of several the last one wins. Without a response it is `NO_RESPONSE` (which
    the script leaves out), without an option `NO_ANSWER`.
    """
    if not text:
        return NO_RESPONSE
    for mark in (",", ".", "!", "?", ";", ":", "'"):
        text = text.strip(mark)
    text = f" {text} "
    letters = _LETTERS[: len(options)]
    # Where several forms are there, the place is that of the first form in this order.
    period, colon = ([x for x in letters if f"{x}{mark}" in text] for mark in ".:")
    if period or colon:
        form = "{}." if period else "{}:"
        return _last([*period, *colon], lambda letter: text.rfind(form.format(letter)))
    for form in ("({})", "{} "):
        found = [letter for letter in letters if form.format(letter) in text]
        if found:
            shown = form if form == "({})" else " {} "
            return _last(found, lambda letter, shown=shown: text.rfind(shown.format(letter)))
    lower = text.lower()
    named = dict(zip(letters, options, strict=False))
    if len(text.split()) > 5:
        found = [letter for letter in letters if named[letter].lower() in lower]
        if found:
            return _last(found, lambda letter: lower.rfind(named[letter].lower()))
    return NO_ANSWER


def _last(letters: Sequence[str], place) -> str:
    return max(letters, key=place)


def tempcompass_letter(text: str, gold: str) -> bool | None:
    """TempCompass, multiple choice: whether it is right; None where a judge would have to say.

    Args:
        text: what the model said. gold: "B. text".
    """
    text = text.replace("</s>", "").strip()
    if text == gold:
        return True
    if text in ("A", "B", "C", "D") or re.match(r"[ABCD][.)]", text):
        return text[0] == gold[0]
    return None


def tempcompass_yes_no(text: str) -> Literal["yes", "no"] | None:
    """TempCompass, yes or no: by the first letters, so "not sure" is a no; None for neither."""
    text = text.replace("</s>", "").strip().lower()
    return "yes" if text.startswith("yes") else "no" if text.startswith("no") else None


def tempcompass_caption(text: str, question: str, gold: str) -> bool | None:
    """TempCompass, caption matching: whether it is right; None where a judge would have to say.

    Args:
        text: what the model said. question: with one line "Option 1: sentence" for each option.
        gold: such a line.
    """
    text = text.replace("</s>", "").strip()
    lines = question.split("\n")[1:]
    chosen = None
    for line in lines:
        label, _, sentence = line.partition(": ")
        bare = re.sub(r"^(?:Sentence|Option|Caption) ", "", label)
        after = text.split(") ")[1] if ") " in text else text
        labels = {form for name in (label, bare) for form in (name, name.replace(".", ""))}
        if text == line or sentence in (text, after) or text in labels:
            chosen = line
    return None if chosen is None else chosen == gold


def videossr_letter(text: str) -> str | None:
    """VideoSSR: the first character; None for an empty answer, at which the script stops."""
    return text[0] if text else None


def lmms_eval_letter(text: str, letters: str = "ABCD") -> str:
    """lmms-eval (multiple choice, spring 2026): the letter in the most trusted form; "" for none.

    From the most trusted: a letter alone at the start, alone at the end, after "the answer is" and
    its kin, "(A)", "A.", "A:", "A)", "A "; without any of these a letter anywhere. Of one form the
    last place wins.

    Args:
        text: what the model said. letters: the options there are.
    """
    text = text.strip()
    for mark in (",", ".", "!", "?", ";", ":", "'", '"'):
        text = text.strip(mark)
    bare, text = text.strip(), f" {text} "
    for edge, neighbour in ((bare[:1], bare[1:2]), (bare[-1:], bare[-2:-1])):
        if edge and edge in letters and not neighbour.isalpha():
            return edge
    lower = text.lower()
    ends = [lower.find(phrase) + len(phrase) for phrase in _LMMS_PHRASES if phrase in lower]
    found = [(text.find(letter, end), letter) for end in ends for letter in letters]
    found = [hit for hit in found if hit[0] >= 0]
    for form in ("({})", "{}.", "{}:", "{})", "{} ", "{}"):
        places = [(text.rfind(form.format(letter)), letter) for letter in letters]
        found = found or [hit for hit in places if hit[0] >= 0]
    return max(found)[1] if found else ""


def videomtr_answer(text: str) -> str:
    """Video-MTR: the answer of a turn that has thoughts, an answer and nothing else; or ""."""
    text = text.strip()
    return _LAST_TURN.findall(text)[0].strip() if _LAST_TURN.fullmatch(text) else ""


def videomtr_right(text: str, gold: str) -> bool:
    """Video-MTR: `videomtr_answer` of a trajectory's last turn is the gold letter, a capital."""
    return videomtr_answer(text) == gold


def lvbench_letter(text: str) -> str:
    """LVBench: the first character inside the first parentheses, or of the text; "" for none."""
    before = text.strip().split(")")[0].strip()
    inside = before.split("(")[1].strip() if "(" in before else before
    return inside.split(" ")[0][:1]


def longvideobench_letter(text: str) -> str:
    """LongVideoBench: the first capital A to E after some phrases are deleted; "" for none."""
    for phrase in _LONG_PHRASES:
        text = text.replace(phrase, "")
    found = re.search("[ABCDE]", text)
    return found[0] if found else ""
