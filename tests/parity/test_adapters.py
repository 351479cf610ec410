"""LoRA against peft: adapters of either load in the other and are the same function."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="compares with torch: pip install '.[parity]'")
pytest.importorskip("peft", reason="compares with peft: pip install '.[parity]'")
import peft as hf_peft
import torch
from flax import nnx

from tests.parity import live, test_decoders, test_qwen_vl
from tgvlm_jax.models import lora, parameters
from tgvlm_jax.models.decoder import Decoder
from tgvlm_jax.schema import DecoderConfig, EvidenceConfig, LoraConfig, ModelConfig
from tgvlm_jax.weights import hf, models, peft, text

pytestmark = [
    pytest.mark.parity,
    # peft 0.21 asks transformers 5.23 by a name that the latter has retired.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

# By name: the model, PEFT's settings and our table for the same adapters.
CASES = {
    "unfused": (
        lambda: test_decoders.llama(num_key_value_heads=2),
        {
            "target_modules": ["q_proj", "k_proj", "o_proj", "up_proj", "down_proj"],
            "r": 3,
            "lora_alpha": 5,
            "rank_pattern": {"q_proj": 4, "mlp.down_proj": 2},
            "alpha_pattern": {"self_attn.o_proj": 7, "q_proj": 2},
        },
        (
            LoraConfig(pattern=r"blocks\.q$", rank=4, alpha=2.0),
            LoraConfig(pattern=r"blocks\.o$", rank=3, alpha=7.0),
            LoraConfig(pattern=r"blocks\.down$", rank=2, alpha=5.0),
            LoraConfig(pattern=r"blocks\.(k|up)$", rank=3, alpha=5.0),
        ),
    ),
    "fused": (
        lambda: test_decoders.phi3(num_key_value_heads=2),
        {
            "target_modules": r".*\.(qkv_proj|o_proj|gate_up_proj)",
            "r": 4,
            "lora_alpha": 8,
            "rank_pattern": {"gate_up_proj": 6},
            "use_rslora": True,
        },
        (
            LoraConfig(pattern=r"blocks\.gate_up$", rank=6, alpha=8.0 * 6**0.5),
            LoraConfig(pattern=r"blocks\.(qkv|o)$", rank=4, alpha=8.0 * 4**0.5),
        ),
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
    """A model without adapters: theirs, and ours with its parameters."""

    model: torch.nn.Module
    spec: DecoderConfig
    params: dict[str, jax.Array]
    inputs: dict[str, np.ndarray]
    folder: pathlib.Path

    @property
    def tensors(self):
        return text.tensors(self.spec)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def base(case, tmp_path_factory):
    rng = live.random(case)
    model = live.fill(CASES[case][0](), rng)
    folder = tmp_path_factory.mktemp("base") / "model"
    model.save_pretrained(folder)
    spec = text.from_hf(hf.read_config(folder))
    given = test_decoders.inputs(rng, 12, axes=False)
    params = hf.load(folder, text.tensors(spec), like=parts(spec, ()))
    return Base(model=model, spec=spec, params=params, inputs=given, folder=folder)


def decoder(spec, table):
    config = ModelConfig(decoder=spec, evidence=EvidenceConfig(bank_layer=1))
    made = Decoder(config, rngs=nnx.Rngs(0))
    if table:
        lora.attach(made, table, rngs=nnx.Rngs(1))
    return made


def abstract(spec, table):
    return nnx.eval_shape(lambda: decoder(spec, table))


def parts(spec, table):
    """Shapes of all parameters by path."""
    return {
        ".".join(map(str, path)): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for path, leaf in nnx.to_flat_state(nnx.state(abstract(spec, table)))
    }


def adapters_of(spec, table):
    return {path: leaf for path, leaf in parts(spec, table).items() if lora.is_adapter(path)}


def our_logits(base, table, params):
    graph = nnx.graphdef(abstract(base.spec, table))
    given = {name: jnp.asarray(value) for name, value in base.inputs.items()}

    @jax.jit
    def run(params):
        return test_decoders.run_ours(live.build(graph, params), given)["logits"]

    return np.asarray(run(params))


def their_logits(model, base):
    given = {name: torch.from_numpy(value) for name, value in base.inputs.items()}
    with torch.no_grad():
        out = model(input_ids=given["ids"].long(), attention_mask=given["mask"], use_cache=False)
    return (out.logits * given["mask"][..., None]).numpy()


def fresh_base(base):
    """PEFT writes its adapters into the model it is given."""
    return type(base.model).from_pretrained(base.folder, attn_implementation="eager").eval()


def assert_close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)


def test_what_peft_saves_is_the_same_in_ours(case, base, tmp_path):
    _, settings, wanted_table = CASES[case]
    rng = live.random(f"{case} theirs")
    adapted = hf_peft.get_peft_model(
        fresh_base(base), hf_peft.LoraConfig(task_type="CAUSAL_LM", **settings)
    ).eval()
    randomise(adapted, rng)
    adapted.save_pretrained(tmp_path / "adapter")

    table = peft.read_table(tmp_path / "adapter", base.tensors)
    assert adapters_of(base.spec, table) == adapters_of(base.spec, wanted_table)
    found = peft.load(tmp_path / "adapter", base.tensors, like=adapters_of(base.spec, table))
    params = base.params | found
    wanted = their_logits(adapted, base)
    assert np.abs(wanted - their_logits(base.model, base)).max() > 0.1
    assert_close(our_logits(base, table, params), wanted)
    assert_close(our_logits(base, wanted_table, params), wanted)

    merged = lora.merged(abstract(base.spec, table), params)
    assert merged.keys() == base.params.keys()
    assert_close(our_logits(base, (), merged), wanted)


@pytest.mark.parametrize("kind", test_qwen_vl.FAMILIES)
def test_adapters_of_a_tower_and_its_decoder(kind, tmp_path):
    """Both ways at once: what peft saves, read by us, saved by us, read by peft."""
    rng = live.random(f"adapters of {kind}")
    model = live.fill(test_qwen_vl.FAMILIES[kind](), rng)
    model.save_pretrained(tmp_path / "base")
    inputs = test_qwen_vl.given(rng, kind)
    config = models.from_hf(hf.read_config(tmp_path / "base"))
    prompt, tensors = test_qwen_vl.prompt_of(inputs, kind, config.tower), models.tensors(config)
    settings = {"r": 3, "lora_alpha": 5, "target_modules": r".*\.(qkv|q_proj|down_proj)"}
    adapted = hf_peft.get_peft_model(model, hf_peft.LoraConfig(**settings)).eval()
    randomise(adapted, rng)
    adapted.save_pretrained(tmp_path / "theirs")

    table = peft.read_table(tmp_path / "theirs", tensors)
    blueprint = parameters.blueprint(dataclasses.replace(config, lora=table))
    like = {p: jax.ShapeDtypeStruct(s, jnp.float32) for p, s in blueprint.shapes.items()}
    params = hf.load(tmp_path / "base", tensors, like=lora.without(like))
    adapters = {path: leaf for path, leaf in like.items() if lora.is_adapter(path)}
    adapters = peft.load(tmp_path / "theirs", tensors, like=adapters)

    @jax.jit
    def run(params):
        ours = blueprint.build(params)
        return ours.decoder.logits(ours.states(prompt).final)

    with torch.no_grad():
        given = {name: torch.from_numpy(value) for name, value in inputs.items()}
        wanted = adapted(**given, use_cache=False).logits.numpy()
        assert_close(run(params | adapters), wanted)
        peft.save(tmp_path / "ours", tensors, adapters, table=table)
        base = type(model).from_pretrained(tmp_path / "base", attn_implementation="eager")
        again = hf_peft.PeftModel.from_pretrained(base, tmp_path / "ours").eval()
        assert_close(again(**given, use_cache=False).logits.numpy(), wanted)


def randomise(adapted, rng):
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                noise = rng.standard_normal(parameter.shape, np.float32)
                parameter.copy_(torch.from_numpy(0.1 * noise))


def test_what_we_save_is_the_same_in_peft(case, base, tmp_path):
    table = CASES[case][2]
    rng = live.random(f"{case} ours")
    adapters = {
        path: jnp.asarray(0.1 * rng.standard_normal(leaf.shape, np.float32))
        for path, leaf in adapters_of(base.spec, table).items()
    }
    peft.save(tmp_path / "adapter", base.tensors, adapters, table=table, base_model="a/base")
    wanted = our_logits(base, table, base.params | adapters)

    model = fresh_base(base)
    adapted = hf_peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    assert_close(their_logits(adapted, base), wanted)
    modules = {name for name, _ in adapted.named_modules() if name.endswith("lora_A.default")}
    assert len(modules) == sum(path.endswith("lora_a") for path in adapters) * base.spec.layers
    assert_close(their_logits(adapted.merge_and_unload(), base), wanted)

    # The model with the adapters folded in by us, as a folder of its own.
    merged = lora.merged(abstract(base.spec, table), base.params | adapters)
    config = hf.read_config(base.folder)
    hf.save(tmp_path / "merged", base.tensors, merged, config=config)
    again = type(model).from_pretrained(tmp_path / "merged", attn_implementation="eager")
    assert_close(their_logits(again.eval(), base), wanted)
