"""A run that starts from a converted model: what it takes over, begins anew, and refuses."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from tests.train.test_loop import assert_same_run, logged, sigterm_at
from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.models import lora, parameters
from tgvlm_jax.schema import (
    EvidenceConfig,
    Experiment,
    GroupConfig,
    LoraConfig,
    MeshConfig,
    ModelConfig,
    presets,
)
from tgvlm_jax.train import loop, model_folder
from tgvlm_jax.types import InputError

PHI3 = presets.language_model(presets.PHI3_TINY)
NOT_ADAPTERS = r"^(?!.*\.lora_[ab]$)"


def save(folder, model, *, seed=3):
    rng = np.random.default_rng(seed)
    shapes = parameters.blueprint(model).shapes
    params = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    experiment = Experiment(name="made", model=model)
    tokenizer = folder.parent / "tokenizer.json"
    tokenizer.write_text("{}")
    params = {name: np.float32(0.1) * value for name, value in params.items()}
    beside = {"tokenizer.json": tokenizer}
    model_folder.save(folder, experiment, jax.device_put(params), beside=beside)
    return params


@pytest.fixture(scope="module")
def phi3(tmp_path_factory):
    """A tiny Phi-3 as `tgvlm convert` leaves it, and its parameters."""
    folder = tmp_path_factory.mktemp("model") / "phi3"
    return folder, save(folder, PHI3)


@pytest.fixture(scope="module")
def tuning(experiment, phi3):
    """Adapters alone are trained, on Phi-3 with a tower and evidence heads of its own."""
    model = dataclasses.replace(
        PHI3,
        tower=experiment.model.tower,
        evidence=EvidenceConfig(bank_layer=1),
        two_way_frames=True,
        lora=(LoraConfig(pattern=r"decoder\.blocks\.(qkv|o|gate_up|down)$", rank=2, alpha=4.0),),
    )
    frozen = (GroupConfig(pattern=NOT_ADAPTERS, frozen=True),)
    return dataclasses.replace(
        experiment,
        model=model,
        optim=dataclasses.replace(experiment.optim, lr=1e-2, groups=frozen),
        data=dataclasses.replace(experiment.data, frames=(4,)),
        train=dataclasses.replace(
            experiment.train, init_from=str(phi3[0]), steps=4, checkpoint_every=2
        ),
    )


@dataclasses.dataclass(frozen=True)
class Run:
    workdir: object
    params: dict


@pytest.fixture(scope="module")
def whole(tuning, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    trained = loop.train(tuning, workdir)
    return Run(workdir, {name: np.asarray(value) for name, value in trained.params.items()})


def test_only_adapters_change(whole, phi3, tuning):
    params = phi3[1]
    fresh = parameters.init(tuning.model, jax.random.fold_in(jax.random.key(tuning.seed), 0))
    for name, value in whole.params.items():
        if lora.is_adapter(name):
            assert (value != fresh[name]).any(), name
        else:
            wanted = params[name] if name in params else fresh[name]
            np.testing.assert_array_equal(value, wanted, err_msg=name)
    assert {name.split(".")[0] for name in whole.params} == {"tower", "decoder", "evidence"}
    assert len(logged(whole.workdir)) == 4


def test_it_says_what_it_starts_from(tuning, phi3):
    start = model_folder.start(tuning)
    assert start.told().splitlines() == [
        f"starts from {phi3[0]}: 188,864 parameters taken over",
        "  fresh: evidence, tower, 8 adapters",
    ]


def test_what_is_needed_for_the_way_back_comes_along(whole):
    assert (whole.workdir / "hf" / "tokenizer.json").read_text() == "{}"


def test_resume_is_exact_and_needs_the_model_no_more(tuning, whole, tmp_path):
    """The folder it started from is gone by then."""
    moved = shutil.copytree(tuning.train.init_from, tmp_path / "model")
    train = dataclasses.replace(tuning.train, init_from=str(moved))
    tuning = dataclasses.replace(tuning, train=train)
    with sigterm_at(3), pytest.raises(loop.Preempted, match="stopped at step 3 of 4"):
        loop.train(tuning, tmp_path / "run")
    shutil.rmtree(moved)
    rest = loop.train(tuning, tmp_path / "run")
    assert rest.ran == 1
    assert_same_run(rest.params, tmp_path / "run", whole)


def test_a_kill_before_the_first_checkpoint_starts_from_the_model_again(tuning, whole, tmp_path):
    """What a kill left half written is no checkpoint to go on from."""
    run = tmp_path / "run"
    half = shutil.copytree(
        whole.workdir / "checkpoints" / "2", run / "checkpoints" / "2.orbax-checkpoint-tmp"
    )
    (half / "_CHECKPOINT_METADATA").unlink()
    shutil.copy(whole.workdir / "experiment.json", run)
    trained = loop.train(tuning, run)
    assert trained.ran == 4
    assert_same_run(trained.params, run, whole)


def test_onto_a_mesh_and_in_another_type(tuning, phi3):
    model = dataclasses.replace(tuning.model, param_dtype="bfloat16")
    start = model_folder.start(dataclasses.replace(tuning, model=model))
    mesh = mesh_lib.make(MeshConfig(fsdp=2, tp=2))
    with mesh_lib.use(mesh):
        params = start.restore(dataclasses.replace(tuning, model=model), mesh=mesh)
    assert params.keys() == phi3[1].keys()
    for name, value in params.items():
        assert value.dtype == "bfloat16"
        np.testing.assert_array_equal(value, phi3[1][name].astype(value.dtype), err_msg=name)
    assert "fsdp" in str(params["decoder.blocks.qkv.weight"].sharding.spec)


def test_adapters_that_are_there_are_taken_over(tuning, tmp_path):
    own = save(tmp_path / "adapted", dataclasses.replace(PHI3, lora=tuning.model.lora))
    train = dataclasses.replace(tuning.train, init_from=str(tmp_path / "adapted"))
    tuning = dataclasses.replace(tuning, train=train)
    start = model_folder.start(tuning)
    assert start.fresh == ("evidence", "tower")
    found = start.restore(tuning, mesh=None)
    assert found.keys() == own.keys()
    np.testing.assert_array_equal(found["decoder.blocks.o.lora_a"], own["decoder.blocks.o.lora_a"])


def changed(tuning, **values):
    """With other settings of the decoder, or of the model."""
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    decoder = {key: value for key, value in values.items() if key not in fields}
    model = dataclasses.replace(
        tuning.model,
        decoder=dataclasses.replace(tuning.model.decoder, **decoder),
        **{key: value for key, value in values.items() if key in fields},
    )
    return dataclasses.replace(tuning, model=model)


def test_everything_that_does_not_fit_is_in_one_error(tuning, phi3):
    wrong = changed(tuning, hidden=96, qk_norm=True, tie_embeddings=True)
    with pytest.raises(InputError) as caught:
        model_folder.start(wrong)
    assert str(caught.value) == (
        f"train.init_from={phi3[0]} is of another model: "
        "2 not there: decoder.blocks.k_norm.scale, decoder.blocks.q_norm.scale; "
        "1 not in the config: decoder.untied_head.table; "
        "2 of another shape: decoder.blocks.down.weight is (3, 128, 64), not (3, 96, 64), "
        "decoder.blocks.gate_up.weight is (3, 64, 2, 128), not (3, 64, 2, 96)"
    )


def test_a_part_that_is_half_there_is_refused(tuning, tmp_path):
    """A tower of one more norm, say: a whole tower may be new, half of one may not."""
    save(tmp_path / "seeing", dataclasses.replace(tuning.model, evidence=None, lora=()))
    deeper = dataclasses.replace(tuning.model.tower, cell_width=16)
    train = dataclasses.replace(tuning.train, init_from=str(tmp_path / "seeing"))
    with pytest.raises(InputError, match=r"of another shape: tower\."):
        model_folder.start(changed(dataclasses.replace(tuning, train=train), tower=deeper))
    with pytest.raises(InputError, match=r"\d+ not in the config: tower\."):
        model_folder.start(changed(dataclasses.replace(tuning, train=train), tower=None))


def test_settings_that_change_no_shape_are_noted(tuning):
    start = model_folder.start(changed(tuning, sliding_window=0, norm_eps=1e-6))
    assert start.told().splitlines()[2:] == [
        "  note: model.decoder.norm_eps=1e-06 here, 1e-05 there",
        "  note: model.decoder.sliding_window=0 here, 7 there",
    ]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: None, r"model: no checkpoint of ours there \(no experiment.json\)"),
        (
            lambda folder: (folder / "config.json").write_text("{}"),
            r"it is in Hugging Face format: tgvlm convert --from \S+model --to DIR",
        ),
    ],
)
def test_a_folder_that_is_none_is_told_before_anything_is_written(make, says, tuning, tmp_path):
    (tmp_path / "model").mkdir()
    make(tmp_path / "model")
    train = dataclasses.replace(tuning.train, init_from=str(tmp_path / "model"))
    with pytest.raises(InputError, match=says):
        loop.train(dataclasses.replace(tuning, train=train), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nobody_trains_in_the_folder_of_a_model(tuning, phi3):
    with pytest.raises(InputError, match="holds a converted model and no run; start from it by"):
        loop.train(tuning, phi3[0])


def test_from_scratch_there_is_nothing_to_start_from(experiment):
    assert model_folder.start(experiment) is None
