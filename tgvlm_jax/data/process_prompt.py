"""What VideoP2R adds to a question: observe, reason, answer, each in its own tags (VideoP2R 1.1).

The same words serve the CoT pipeline, both stages of training and inference. They follow the
paper's figure in content, not to the letter, which is not published as text. What ends a prompt
says in which form the answer is to stand, since exact rewards depend on it.
"""

INSTRUCTIONS = {
    "process": """

Answer from what can be seen. Your output must have three parts, in this order and each in its own \
tags; do not stop after the first.

1. Visual observation. Work out what the question asks and which visual information decides it, \
such as objects, actions, text or spatial relations. Write one paragraph in <observation> tags \
that opens with "Based on the question, I need to notice" and goes straight on to what you \
observe, so that the reason to look and what was seen belong together:
<observation>Based on the question, I need to notice ... </observation>

2. Reasoning. In <think> tags, reason step by step from these observations, opening with "Based \
on the observations,". Think as one does to oneself ("let me think", "hmm", "wait a second") and \
check yourself ("Does that make sense?", "let me double-check"):
<think>Based on the observations, ... </think>

3. Final answer. In <answer> tags, short and consistent with both parts above:
<answer> ... </answer>
""",
    "process_brief": "\n<observation>, <think>, <answer>?",
}
"""By the names of `data.instruction`; the brief one is for models of a test."""
FORMS = {
    "multiple choice": "Give only the letter of an option, such as A or B, within the answer tags.",
    "numerical": "Give only a number, such as 42 or 3.14, within the answer tags.",
    "OCR": "Transcribe the text of the picture or video, and give it within the answer tags.",
    "free-form": "Give your answer in your own words within the answer tags.",
    "regression": "Give only a number, such as 42 or 3.14, within the answer tags.",
}
"""What the answer to a type of question looks like (Video-R1's suffixes, in our words)."""


def instruct(question: str, *, instruction: str, kind: str) -> str:
    """The question as it is asked.

    Args:
        instruction: a name in `INSTRUCTIONS`, or "" for none. kind: type of the question; without
            a form of its own nothing is said about the answer.
    """
    if not instruction:
        return question
    form = FORMS.get(kind, "") if instruction == "process" else ""
    return question + INSTRUCTIONS[instruction] + form
