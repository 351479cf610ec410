"""The PyTorch side of benchmarks/against_torch.py, which starts it in an environment with torch.

Models are those of transformers and peft, run as their manuals say: eager, `sdpa` attention,
`inference_mode`. To generate there is also what is quickest there, a static cache and
torch.compile.
"""

import sys
import time
from pathlib import Path

import numpy as np
import peft
import torch
import transformers
from serving import serve

PAD = 0


class Worker:
    """The weights in one type at a time: the model, and the same with adapters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ids = torch.tensor(np.load(folder / "ids.npy"))
        self.rows = torch.tensor(np.load(folder / "factors.npy"))
        self.model, self.compiled, self.trained = None, None, None

    def make(self, settings: dict, rank: int, alpha: int) -> dict:
        """Random weights and adapters of a Llama's `settings`, saved to be read by both sides."""
        torch.manual_seed(0)
        config = transformers.LlamaConfig(**settings)
        model = transformers.LlamaForCausalLM(config)
        model.save_pretrained(self.folder / "model")
        lora = peft.LoraConfig(
            r=rank, lora_alpha=alpha, target_modules="all-linear", init_lora_weights=False
        )
        peft.get_peft_model(model, lora).save_pretrained(self.folder / "adapters")
        versions = {"torch": torch, "transformers": transformers, "peft": peft}
        found = {name: module.__version__ for name, module in versions.items()}
        simd = torch.backends.cpu.get_cpu_capability()
        return {**found, "torch threads": torch.get_num_threads(), "torch's kernels": simd}

    def load(self, dtype: str) -> dict:
        """Both models in a type; the earlier ones go."""
        self.model = self.compiled = self.trained = None
        self.factors = list(self.rows.to(getattr(torch, dtype)))
        of = {"dtype": getattr(torch, dtype), "attn_implementation": "sdpa"}
        self.model = transformers.LlamaForCausalLM.from_pretrained(self.folder / "model", **of)
        self.model.eval()
        self.compiled = transformers.LlamaForCausalLM.from_pretrained(self.folder / "model", **of)
        self.compiled.eval()
        self.compiled.forward = torch.compile(self.compiled.forward)
        base = transformers.LlamaForCausalLM.from_pretrained(self.folder / "model", **of)
        self.trained = peft.PeftModel.from_pretrained(
            base, self.folder / "adapters", is_trainable=True, autocast_adapter_dtype=False
        )
        self.trained.train()
        adapters = [p for p in self.trained.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(adapters, lr=1e-3, weight_decay=0.0)
        return {"adapters": sum(p.numel() for p in adapters)}

    def run(
        self, *, kind: str, batch: int, length: int, extra: int, compiled: bool
    ) -> torch.Tensor:
        """What a case computes."""
        ids = self.ids[:batch, :length]
        if kind == "train":
            return self._step(ids, answer=extra)
        with torch.inference_mode():
            if kind == "forward":
                return self.model(ids, use_cache=False).logits
            if kind == "prefill":
                return self.model(ids, use_cache=True, logits_to_keep=1).logits
            if kind == "product":
                x = torch.ones((batch, length), dtype=self.factors[0].dtype)
                return [torch.nn.functional.linear(x, rows) for rows in self.factors][-1]
            model, cache = self.model, {}
            if compiled:
                model, cache = self.compiled, {"cache_implementation": "static"}
            return model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                min_new_tokens=extra,
                max_new_tokens=extra,
                do_sample=False,
                pad_token_id=PAD,
                **cache,
            )[:, length:]

    def _step(self, ids: torch.Tensor, *, answer: int) -> torch.Tensor:
        """Loss of the last `answer` tokens, gradient of the adapters, AdamW."""
        labels = ids.clone()
        labels[:, :-answer] = -100
        loss = self.trained(input_ids=ids, labels=labels).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def outputs(self, path: str, **case) -> dict:
        """Writes what a case computes."""
        np.save(path, self.run(**case).float().numpy())
        return {}

    def seconds(self, **case) -> dict:
        """How long it takes, by the clock and on the processor."""
        began, spent = time.perf_counter(), time.process_time()
        self.run(**case)
        return {"wall": time.perf_counter() - began, "cpu": time.process_time() - spent}


if __name__ == "__main__":
    serve(lambda: Worker(Path(sys.argv[1])))
