"""Prompts for benchmarks that bring no wording of their own.

They ask for the form that the scorers read ("12 - 20 seconds", "(B) ..."), as D2VLM's prompts do;
the words are ours. E.T. Bench has its prompts in the annotation file.
"""

from collections.abc import Sequence

_LETTERS = "ABCDEFGHIJKLMN"

RECIPE = (
    "This is a cooking video. List every step of the recipe in order. Write each step as "
    "'<start> - <end> seconds, <what is done>'."
)


def moment(sentence: str) -> str:
    """Asks for one span; the sentence stands in single quotes, where D2VLM's converter looks."""
    sentence = sentence.replace("'", "’").rstrip(". ")
    return (
        f"This is a video of indoor activities. Find the moment that shows '{sentence}'. "
        "Write its time as '<start> - <end> seconds'."
    )


def options(question: str, candidates: Sequence[str]) -> str:
    """Multiple choice with options "(A) text"; the answer is to begin with its letter."""
    lines = [f"({letter}) {text}" for letter, text in zip(_LETTERS, candidates, strict=False)]
    return "\n".join([
        "Watch the video closely and choose the best option.",
        question,
        *lines,
        "Answer with the letter of the option in parentheses.",
    ])  # fmt: skip


def lettered_options(question: str, lines: Sequence[str]) -> str:
    """Multiple choice with options that begin with their letters; the answer is to be one."""
    return "\n".join([
        "Choose the best answer to this question about the video.",
        question,
        *lines,
        "Answer with the letter of the right option only.",
    ])  # fmt: skip


def letters(texts: Sequence[str]) -> list[str]:
    """Options as lines that begin with their letters."""
    return [f"{letter}. {text}" for letter, text in zip(_LETTERS, texts, strict=False)]


def plain(question: str, lines: Sequence[str]) -> str:
    """A question with its options and no word on how to answer (Video-R1)."""
    return "\n".join([question, "Options:", *lines])


def number(question: str) -> str:
    """Asks for one number."""
    return "\n".join([question, "Look at the video and answer with a single number only."])


def short(question: str) -> str:
    """Asks for a word or a number of the model's own."""
    return "\n".join([question, "Answer with one word, short phrase or number only."])


def yes_no(question: str) -> str:
    """Asks for yes or no."""
    return "\n".join([question, "Look at the video and answer with yes or no only."])


def labelled_options(question: str) -> str:
    """Multiple choice whose lines have labels of their own; the answer is to be one of them."""
    return "\n".join([question, "Answer with the label of the line that fits the video only."])


def interval(question: str) -> str:
    """Asks for a list of numbers, a stretch of time or a box."""
    return "\n".join([question, "Answer with a list of numbers in brackets only, as in [3, 12]."])
