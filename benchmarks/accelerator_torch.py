"""The torch side of benchmarks/accelerator.py, in a process of its own: see there.

Models are those of transformers and peft with `sdpa` attention, eager, made of random weights on
the device itself. Knows nothing of our library.
"""

import contextlib
import math
import time
from typing import Any

import torch
import transformers
from serving import serve

_PRODUCTS = 8
_SHARE = 0.45  # of the card's memory; the other side has as much
_TOWERS = {
    "timesformer": ("timesformer", "TimesformerConfig", "TimesformerModel"),
    "eva": ("blip_2", "Blip2VisionConfig", "Blip2VisionModel"),
    "qwen2_5_vl": (
        "qwen2_5_vl",
        "Qwen2_5_VLVisionConfig",
        "Qwen2_5_VisionTransformerPretrainedModel",
    ),
    "qwen3_vl": ("qwen3_vl", "Qwen3VLVisionConfig", "Qwen3VLVisionModel"),
}


class Torch:
    """One system at a time."""

    model: Any
    trained: Any
    optimizer: Any
    tower: Any
    made: Any

    def hello(self, device: str) -> dict[str, Any]:
        """What torch calls the device; an error if it sees none."""
        self.device = torch.device(device)
        found: dict[str, Any] = {"versions": self._versions()}
        if device != "cuda":
            return {**found, "device": device, "threads": torch.get_num_threads()}
        if not torch.cuda.is_available():
            return {"error": f"torch {torch.__version__} sees no GPU"}
        torch.cuda.set_per_process_memory_fraction(_SHARE)
        torch.set_float32_matmul_precision("high")  # as JAX has it there: TF32
        return {**found, "device": torch.cuda.get_device_name(0)}

    def _versions(self) -> dict[str, str]:
        import peft

        versions = {"torch": torch, "transformers": transformers, "peft": peft}
        return {name: module.__version__ for name, module in versions.items()}

    def begin(self, name: str, dtype: str, told: dict[str, Any]) -> dict[str, Any]:
        """Notes what to build; it is built when it is needed."""
        self.told, self.dtype = told, getattr(torch, dtype)
        self.words = told["decoder"]["vocab_size"]
        self.lengths = told["lengths"]
        self._forget()
        return {}

    def _forget(self) -> None:
        self.model = self.trained = self.optimizer = self.tower = self.made = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def prepare(self, case: str) -> dict[str, Any]:
        """Builds what a case needs and runs it once."""
        try:
            getattr(self, f"_make_{case}", self._make_model)()
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            self._run(case)
            found = {"first": time.perf_counter() - began}
        except torch.OutOfMemoryError as error:
            self._forget()
            return {"error": str(error).splitlines()[0][:200]}
        if self.device.type == "cuda":
            found["memory"] = float(torch.cuda.max_memory_allocated())
        return found

    def seconds(self, case: str) -> dict[str, float]:
        """How long it takes, by the clock and on the processor, and how long a first token does."""
        taken = self._timed(case)
        first = {"first": self._timed("first_token")["wall"]} if case == "decode" else {}
        return taken | first

    def _timed(self, case: str) -> dict[str, float]:
        began, spent = time.perf_counter(), time.process_time()
        self._run(case)
        return {"wall": time.perf_counter() - began, "cpu": time.process_time() - spent}

    def _run(self, case: str) -> None:
        training = case in ("sft", "update")
        with contextlib.nullcontext() if training else torch.inference_mode():
            getattr(self, f"_{case}")()
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def end(self, case: str) -> dict[str, Any]:
        """Lets go of what no other case needs."""
        if case in ("product", "copy", "tower"):
            self._forget()
        return {}

    def _make_product(self) -> None:
        side = self.lengths["product"]
        self.made = torch.randn(2, side, side, device=self.device, dtype=self.dtype)
        self.made[1] *= side**-0.5

    def _product(self) -> None:
        y, w = self.made
        for _ in range(_PRODUCTS):
            y = y @ w

    def _make_copy(self) -> None:
        self.made = torch.ones(2**20 * self.lengths["copied"] // 4, device=self.device)

    def _copy(self) -> None:
        torch.add(self.made, 1)

    def _make_tower(self) -> None:
        kind, lengths = self.told["tower"]["kind"], self.lengths
        folder, config_name, model_name = _TOWERS[kind]
        module = __import__(f"transformers.models.{folder}", fromlist=[config_name, model_name])
        settings = dict(self.told["tower"]["config"])
        settings.pop("model_type", None)
        config = getattr(module, config_name)(**settings)
        with torch.device(self.device):
            self.tower = getattr(module, model_name)(config).to(self.dtype).eval()
            shape = (settings.get("image_size", 0),) * 2
            if "qwen" in kind:
                grid = self.told["grid"]
                width = 3 * config.temporal_patch_size * config.patch_size**2
                patches = torch.randn(lengths["clips"] * math.prod(grid), width, dtype=self.dtype)
                self.made = (patches, torch.tensor([grid] * lengths["clips"]))
            elif kind == "eva":
                self.made = (torch.randn(lengths["clips"], 3, *shape, dtype=self.dtype),)
            else:
                frames = settings["num_frames"]
                self.made = (torch.randn(lengths["clips"], frames, 3, *shape, dtype=self.dtype),)

    def _tower(self) -> None:
        self.tower(*self.made)

    def _make_model(self) -> None:
        if self.model is not None:
            return
        settings = dict(self.told["decoder"])
        config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
        torch.manual_seed(0)
        with torch.device(self.device):
            self.model = transformers.AutoModelForCausalLM.from_config(
                config, dtype=self.dtype, attn_implementation="sdpa"
            )
        self.model.to(self.device).eval()

    def _make_sft(self) -> None:
        """Adapters on all linear maps, from here on for all cases."""
        self._make_model()
        if self.trained is not None:
            return
        import peft

        rule = peft.LoraConfig(
            r=self.told["rank"], lora_alpha=self.told["alpha"], target_modules="all-linear"
        )
        if self.told["remat"]:
            enable = getattr(self.model, "activation_checkpointing_enable", None)  # its new name
            enable = enable or self.model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        self.trained = peft.get_peft_model(self.model, rule, autocast_adapter_dtype=False)
        self.trained.train()
        adapters = [p for p in self.trained.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(adapters, lr=1e-4, weight_decay=0.0)

    _make_update = _make_sft

    def _ids(self, *shape: int) -> torch.Tensor:
        made = torch.Generator(self.device).manual_seed(0)
        return torch.randint(1, self.words, shape, generator=made, device=self.device)

    def _prefill(self) -> None:
        self.model(self._ids(*self.lengths["prefill"]), use_cache=True, logits_to_keep=1)

    def _generate(self, rows: int, length: int, new: int, **settings: Any) -> None:
        ids = self._ids(rows, length)
        self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=new,
            max_new_tokens=new,
            pad_token_id=0,
            **settings,
        )

    def _decode(self) -> None:
        rows, length, new = self.lengths["decode"]
        self._generate(rows, length, new + 1, do_sample=False)

    def _first_token(self) -> None:
        rows, length, _ = self.lengths["decode"]
        self._generate(rows, length, 1, do_sample=False)

    def _rollout(self) -> None:
        prompts, length, group, new = self.lengths["rollout"]
        drawn = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        self._generate(prompts, length, new, num_return_sequences=group, **drawn)

    def _chances(self, rows: int, length: int, answer: int) -> torch.Tensor:
        """Log-probabilities of the last `answer` tokens."""
        ids = self._ids(rows, length + answer)
        logits = self.trained(ids, logits_to_keep=answer + 1, use_cache=False).logits[:, :-1]
        chances = torch.log_softmax(logits.float(), dim=-1)
        return chances.gather(2, ids[:, length:, None])[..., 0]

    def _sft(self) -> None:
        self._learn(-self._chances(*self.lengths["train"]).mean())

    def _update(self) -> None:
        """The clipped loss on whole sequences, a prompt to each answer, as TRL does it."""
        prompts, length, group, new = self.lengths["rollout"]
        chances = self._chances(prompts * group, length, new)
        ratio = torch.exp(chances + math.log(self.words))
        better = torch.ones(prompts * group, 1, device=self.device)
        better[1::2] = -1
        clipped = torch.clamp(ratio, 0.8, 1.2)
        self._learn(-torch.minimum(ratio * better, clipped * better).mean())

    def _learn(self, loss: torch.Tensor) -> None:
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


if __name__ == "__main__":
    serve(Torch)
