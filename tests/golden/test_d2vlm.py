"""D2VLM whole: supervised and preference losses with gradients, and generation, as published."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.golden import d2vlm_sizes
from tgvlm_jax.grounding import targets
from tgvlm_jax.models import parameters
from tgvlm_jax.objectives import fpo, sft
from tgvlm_jax.rollout.sampler import generate
from tgvlm_jax.schema import Experiment, FpoConfig, SamplingConfig
from tgvlm_jax.types import Batch, Frames, PreferenceBatch, Prompt, Response, Sources, Text
from tgvlm_jax.weights import d2vlm, mapping

# Logits and scores absolute; the rest relative; gradient norms of what is not rounding alone.
LOGITS, SCORES, LOSSES, GRADIENTS, LOG_PROBS = 1e-4, 5e-5, 1e-4, 1e-3, 2e-4
FLOOR = 1e-4
SLOT = -200


class Reference:
    """The folder of vectors, with our model holding its weights."""

    def __init__(self, folder):
        self.hf = json.loads((folder / "config.json").read_text())
        ids = self.hf["token_ids"]
        self.pad, self.assistant = self.hf["pad_token_id"], ids["<|assistant|>"]
        self.evidence = self.hf["evidence_token_id"]
        config = d2vlm.from_hf(self.hf)
        self.config = dataclasses.replace(config, tower=d2vlm_sizes.tower(self.hf))
        self.blueprint = parameters.blueprint(self.config)
        self.tensors = d2vlm.tensors(self.config)
        published = load_file(folder / "model.safetensors")
        shapes = self.blueprint.shapes
        self.params = mapping.to_ours(self.tensors, published.__getitem__, shapes=shapes)
        assert {name: value.shape for name, value in self.params.items()} == shapes
        back = mapping.to_theirs(self.tensors, self.params)
        assert published.keys() - back.keys() == set(d2vlm.UNUSED)
        for name, value in back.items():
            np.testing.assert_array_equal(value, published[name])

    def prompt(self, ids, video, text_ids, source, *, frames, length, question):
        """One row, padded to these sizes."""
        count, where = len(video), int(np.flatnonzero(ids == SLOT)[0])
        full = np.concatenate([ids[:where], np.full(count, SLOT), ids[where + 1 :]]).astype(int)
        index = np.full(length, -1, np.int32)
        index[where : where + count] = np.arange(count)
        spans = np.zeros((4, 2), np.float32)
        slots = np.full(length, -1, np.int32)
        pairs = np.reshape(np.repeat(source, 2) if len(source) == 1 else source, (-1, 2))
        spans[: len(pairs)] = pairs
        places = np.flatnonzero(full == self.evidence)[: len(pairs)]
        slots[places] = np.arange(len(places))
        tokens = np.full(length, self.pad, np.int32)
        tokens[: len(full)] = np.where(full == SLOT, 0, full)
        asked = np.zeros(question, np.int32)
        asked[: len(text_ids)] = text_ids
        pixels = np.zeros((frames, *video.shape[1:]), np.uint8)
        pixels[:count] = video
        return Prompt(
            visual=Frames(
                pixels=pixels,
                mask=np.arange(frames) < count,
                question=Text(ids=asked, mask=np.arange(question) < len(text_ids)),
            ),
            tokens=tokens,
            visual_index=index,
            length=np.int32(len(full)),
            sources=Sources(slots=slots, spans=spans),
        )

    def response(self, ids, spans, *, length, events, counted=None):
        """One row; every span stands twice, in the order of the tokens."""
        ids = np.asarray(ids, int)
        places = np.flatnonzero(ids == self.evidence)
        evidence = np.full(length, -1, np.int32)
        filled, slots = np.zeros(2 * events, bool), np.zeros((2 * events, 2), np.float32)
        pairs = np.reshape(spans, (-1, 2))
        if len(pairs):
            numbers = np.concatenate([np.arange(len(pairs)), events + np.arange(len(pairs))])
            assert len(places) == len(numbers)
            evidence[places] = numbers
            slots[numbers], filled[numbers] = np.concatenate([pairs, pairs]), True
        tokens, mask = np.full(length, self.pad, np.int32), np.zeros(length, bool)
        tokens[: len(ids)] = ids
        mask[: len(ids)] = True if counted is None else counted
        return Response(
            tokens=tokens, mask=mask, evidence=evidence, spans=slots, evidence_mask=filled
        )


@pytest.fixture(scope="module")
def loaded():
    return {}


@pytest.fixture
def reference(suite, loaded):
    if suite not in loaded:
        loaded[suite] = Reference(suite)
    return loaded[suite]


def recorded(suite, name):
    with np.load(suite / f"{name}.npz") as arrays:
        found = {key: arrays[key] for key in arrays.files}
    return json.loads((suite / f"{name}.json").read_text()), found


def stacked(rows):
    return jax.device_put(jax.tree.map(lambda *values: np.stack(values), *rows))


def sizes(found, described, ids):
    """One bucket for all samples of a file."""
    frames = max(len(found[f"video.{one['video']}"]) for one in described)
    return {
        "frames": frames,
        "length": max(len(found[one["key"] + ids]) for one in described) + frames,
        "question": max(len(found[one["key"] + "text_ids"]) for one in described),
    }


def check_gradients(reference, grads, wanted, names):
    theirs = mapping.to_theirs(reference.tensors, jax.device_get(grads))
    norms = np.array([np.linalg.norm(theirs[name]) for name in names])
    trained = ~np.isnan(wanted)
    clear = trained & (wanted > FLOOR * np.nanmax(wanted))
    assert clear.sum() > 50
    np.testing.assert_allclose(norms[clear], wanted[clear], rtol=GRADIENTS)
    return theirs


# ------------------------------------------------------------------- supervised fine-tuning


@pytest.fixture
def supervised(suite, reference):
    described, found = recorded(suite, "sft")
    bucket = sizes(found, described["samples"], "input_ids")
    rows = []
    for one in described["samples"]:
        ids = found[one["key"] + "input_ids"]
        split = int(np.flatnonzero(ids == reference.assistant)[-1]) + 1
        rows.append(
            Batch(
                prompt=reference.prompt(
                    ids[:split],
                    found[f"video.{one['video']}"],
                    found[one["key"] + "text_ids"],
                    one["src"] or [],
                    **bucket,
                ),
                response=reference.response(
                    ids[split:], one["tgt"] or [], length=bucket["length"], events=4
                ),
            )
        )
    return described, found, rows


def test_states_and_logits(reference, supervised):
    described, found, rows = supervised

    @jax.jit
    def run(params, batch):
        model = reference.blueprint.build(params)
        prompt = model.prefill(batch.prompt)
        predicted = model.extend(prompt, batch.response)
        return prompt.bank, predicted, model.decoder.logits(predicted.final)

    bank, predicted, logits = jax.device_get(run(reference.params, stacked(rows)))
    for number, one in enumerate(described["samples"]):
        key, count = one["key"], one["frames"]
        states = found[key + "frame_state_layer6"]
        np.testing.assert_allclose(bank.states[number, :count], states, atol=2e-4, rtol=2e-5)
        keys = found.get(key + "frame_vec")
        if keys is not None:
            np.testing.assert_allclose(bank.keys[number, :count], keys, atol=SCORES)
        answer = int(rows[number].response.mask.sum())
        # Theirs go from the last frame to the end; the one before the answer predicts its start.
        wanted = found[key + "logits"][-answer - 1 : -1]
        np.testing.assert_allclose(logits[number, :answer], wanted, atol=LOGITS)
        if one["has_intervals"]:
            slots = np.flatnonzero(rows[number].response.evidence_mask)
            scores = predicted.scores[number, slots, :count]
            np.testing.assert_allclose(scores, found[key + "similarity"], atol=SCORES)
            spans = jnp.round(rows[number].response.spans[slots])
            np.testing.assert_allclose(
                targets.soft_targets(spans, count), found[key + "target"], rtol=1e-6
            )


def totals(reference, objective, batch, *, params, experiment):
    """Weighted means of the terms in the published order, the total last."""
    model = reference.blueprint.build(params)
    sums = objective.sums(model, batch, config=experiment.objective)
    weights = objective.weights(batch)
    means = {name: value / jnp.maximum(weights[name], 1.0) for name, value in sums.items()}
    terms = {n: c * means[n] for n, c in objective.coefficients(experiment).items() if c}
    return sum(terms.values()), jnp.stack([*terms.values(), sum(terms.values())])


def test_supervised_losses_and_gradients(reference, supervised):
    described, found, rows = supervised
    experiment = Experiment(model=reference.config)

    @jax.jit
    def run(params, batch):
        def loss(params):
            return totals(reference, sft, batch, params=params, experiment=experiment)

        return jax.value_and_grad(loss, has_aux=True)(params)

    several = [(one["key"], [rows[i] for i in one["samples"]]) for one in described["batches"]]
    alone = [(one["key"], [rows[i]]) for i, one in enumerate(described["samples"])]
    for key, batch in alone + several:
        (_, terms), grads = run(reference.params, stacked(batch))
        np.testing.assert_allclose(terms, found[key + "loss"], rtol=LOSSES, atol=1e-6, err_msg=key)
        wanted = found[key + "grad_norm"]
        theirs = check_gradients(reference, grads, wanted, described["parameter_names"])
        for name in described["full_gradients"]:
            if (whole := found.get(f"{key}grad.{name}")) is not None:
                atol = 2e-3 * np.abs(whole).max()
                np.testing.assert_allclose(theirs[name], whole, atol=atol, err_msg=name)


# ------------------------------------------------------------------------ preference


@pytest.fixture
def pairs(suite, reference):
    described, found = recorded(suite, "fpo")
    bucket = sizes(found, described["pairs"], "prompt_ids")
    longest = max(len(v) for k, v in found.items() if k.endswith(("chosen_ids", "rejected_ids")))
    rows = []
    for one in described["pairs"]:
        key = one["key"]
        scored = {}
        for side in ("chosen", "rejected"):
            scored[side] = np.zeros(longest, bool)
            flags = found[f"{key}{side}_scored"].astype(bool)
            scored[side][: len(flags)] = flags
        answer = {"length": longest, "events": 4}
        chosen = found[key + "chosen_in_ce"].astype(bool)
        rows.append(
            PreferenceBatch(
                prompt=reference.prompt(
                    found[key + "prompt_ids"],
                    found[f"video.{one['video']}"],
                    found[key + "text_ids"],
                    one["src"] or [],
                    **bucket,
                ),
                response=reference.response(
                    found[key + "chosen_ids"], one["tgt"] or [], counted=chosen, **answer
                ),
                rejected=reference.response(
                    found[key + "rejected_ids"], one["tgt_reject"] or [], **answer
                ),
                scored=scored["chosen"],
                rejected_scored=scored["rejected"],
            )
        )
    return described, found, rows


def test_preference_log_probabilities(reference, pairs):
    described, found, rows = pairs

    @jax.jit
    def run(params, batch):
        model = reference.blueprint.build(params)
        prompt = model.prefill(batch.prompt)
        both = {"chosen": batch.response, "rejected": batch.rejected}
        predicted = {side: model.extend(prompt, answer) for side, answer in both.items()}
        tokens = {
            side: sft.response_log_probs(model, predicted[side], answer)
            for side, answer in both.items()
        }
        return tokens, {side: one.scores for side, one in predicted.items()}

    tokens, scores = jax.device_get(run(reference.params, stacked(rows)))
    for number, one in enumerate(described["pairs"]):
        row = rows[number]
        for side, answer, scored in (
            ("chosen", row.response, row.scored),
            ("rejected", row.rejected, row.rejected_scored),
        ):
            key = f"{one['key']}{side}_"
            got = tokens[side][number][scored]
            np.testing.assert_allclose(got, found[key + "token_logps"], atol=LOG_PROBS)
            if key + "similarity" in found:
                slots = np.flatnonzero(answer.evidence_mask)
                count = one["frames"]
                wanted = found[key + "similarity"]
                np.testing.assert_allclose(scores[side][number, slots, :count], wanted, atol=SCORES)
                soft = targets.soft_targets(jnp.asarray(answer.spans[slots]), count)
                np.testing.assert_allclose(soft, found[key + "fpo_target"], rtol=1e-6)


def test_preference_losses_and_gradients(reference, pairs):
    described, found, rows = pairs
    experiment = Experiment(model=reference.config, objective=FpoConfig())

    @jax.jit
    def run(params, batch):
        def loss(params):
            return totals(reference, fpo, batch, params=params, experiment=experiment)

        return jax.value_and_grad(loss, has_aux=True)(params)

    several = [(one["key"], [rows[i] for i in one["pairs"]]) for one in described["batches"]]
    alone = [(one["key"], [rows[i]]) for i, one in enumerate(described["pairs"])]
    for key, batch in alone + several:
        (_, terms), grads = run(reference.params, stacked(batch))
        np.testing.assert_allclose(terms, found[key + "loss"], rtol=LOSSES, atol=1e-6, err_msg=key)
        wanted = found[key + "grad_norm"]
        check_gradients(reference, grads, wanted, described["parameter_names"])


# ------------------------------------------------------------------------ generation


def test_generation(suite, reference):
    described, found = recorded(suite, "generate")
    for one in described["prompts"]:
        one["video_ids"] = found[f"video.{one['video']}"]
    bucket = {
        "frames": max(len(one["video_ids"]) for one in described["prompts"]),
        "question": max(len(one["text_ids"]) for one in described["prompts"]),
    }
    bucket["length"] = bucket["frames"] + max(len(o["prompt_ids"]) for o in described["prompts"])
    for penalty in {one["repetition_penalty"] for one in described["prompts"]}:
        chosen = [one for one in described["prompts"] if one["repetition_penalty"] == penalty]
        rows = [
            reference.prompt(
                np.asarray(one["prompt_ids"]),
                one["video_ids"],
                one["text_ids"],
                one["src"] or [],
                **bucket,
            )
            for one in chosen
        ]
        out = generate(
            reference.params,
            stacked(rows),
            blueprint=reference.blueprint,
            max_tokens=described["max_new_tokens"],
            evidence_id=reference.evidence,
            end_id=np.asarray(described["eos_ids"], np.int32),
            pad_id=reference.pad,
            sampling=SamplingConfig(repetition_penalty=penalty or 1.0),
        )
        for row, one in enumerate(chosen):
            wanted = one["generated_ids"]
            np.testing.assert_array_equal(out.tokens[row, : len(wanted)], wanted)
            spans = np.asarray(out.grounding.spans)[row, : len(wanted)]
            np.testing.assert_array_equal(spans, one["interval_every_step"])
            np.testing.assert_array_equal(spans[one["evidence_steps"]].tolist(), one["intervals"])
            np.testing.assert_allclose(
                out.grounding.probabilities[row, : len(wanted), : one["frames"]],
                found[one["key"] + "similarity"],
                atol=SCORES,
            )


def test_interval_rule(suite):
    rules = json.loads((suite / "rules.json").read_text())["interval"]
    for rule in rules:
        row = jnp.asarray(np.asarray(rule["p"], rule["dtype"]))
        found = targets.readout(row, jnp.ones(row.shape, bool))
        assert found.tolist() == rule["interval"], rule
