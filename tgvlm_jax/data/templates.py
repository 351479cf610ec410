"""Chat templates: what stands around video, question and answer."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True, kw_only=True)
class Template:
    """The parts of a conversation of one question.

    Attributes:
        start: stands before all. system: the turn of a system text, which is at "{}".
        default: the system text where no other is given; "" for no such turn.
        user: opens the question's turn.
        after_frames, after_question: what follows them.
        end: closes the answer and is learned. pad: fills up.
    """

    start: str = ""
    system: str
    default: str
    user: str
    after_frames: str
    after_question: str
    end: str
    pad: str

    def before(self, system: str = "") -> str:
        """All that stands before frames and question; `system` in the place of the default."""
        text = system or self.default
        return self.start + (self.system.replace("{}", text) if text else "") + self.user

    @property
    def marks(self) -> list[str]:
        """The special tokens."""
        parts = self.before("."), self.after_question, self.end, self.pad
        return list(dict.fromkeys(re.findall(r"<[|\w]+>", "".join(parts))))


_CHATML = Template(
    system="<|im_start|>system\n{}<|im_end|>\n",
    default="You are a helpful assistant.",
    user="<|im_start|>user\n",
    after_frames="\n",
    after_question="<|im_end|>\n<|im_start|>assistant\n",
    end="<|im_end|>",
    pad="<|endoftext|>",
)
# Phi-3, Llama and Gemma are as the released code of E.T.Chat and D2VLM has them, which is not
# always what the makers of the language models do (D2VLM 1.4): Llama's headers end with one line
# break, not two, and its system text without a full stop. The first token of the text (BOS) stands
# where their tokenizers add it.
TEMPLATES = {
    "phi3": Template(
        system="<|system|>\n{}<|end|>\n",
        default="You are a helpful AI assistant.",
        user="<|user|>\n",
        after_frames="\n",
        after_question="<|end|>\n<|assistant|>\n",
        end="<|end|>",
        pad="<|endoftext|>",
    ),
    "llama3": Template(
        start="<|begin_of_text|>",
        system="<|start_header_id|>system<|end_header_id|>\n{}<|eot_id|>\n",
        default="You are a helpful AI assistant",
        user="<|start_header_id|>user<|end_header_id|>\n",
        after_frames="\n",
        after_question="<|eot_id|>\n<|start_header_id|>assistant<|end_header_id|>\n",
        end="<|eot_id|>",
        pad="<|end_of_text|>",
    ),
    # Qwen2.5-VL, too; Qwen3-VL says nothing where no system text is given.
    "qwen2": _CHATML,
    "qwen3": dataclasses.replace(_CHATML, default=""),
    "smollm2": dataclasses.replace(
        _CHATML,
        default="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        pad="<|im_end|>",
    ),
    # Gemma has no turn for a system text: it opens the user's.
    "gemma2": Template(
        start="<bos><start_of_turn>user\n",
        system="{}\n\n",
        default="",
        user="",
        after_frames="\n",
        after_question="<end_of_turn>\n<start_of_turn>model\n",
        end="<end_of_turn>",
        pad="<pad>",
    ),
}
