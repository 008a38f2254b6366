"""Aloe: one pass is as good as two, what is left out changes nothing, and every weight has a gradient."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from slotformer import original
from slotformer.clevrer_vqa import build_model
from slotformer.clevrer_vqa.models.aloe import KINDS, CLEVRERAloe, answer_losses
from slotformer.framework.params import BaseParams, ParamsError

SIZES = {
    "input_len": 4 * 3 + 9,
    "input_dim": 6,
    "num_layers": 3,
    "num_heads": 2,
    "ffn_dim": 20,
    "cls_mlp_size": 7,
    "max_question_len": 6,
    "max_choice_len": 3,
    "question_vocab_size": 11,
    "answer_vocab_size": 5,
    "vision_dim": 8,
    "dropout": 0.0,
}
TEXT = 9


def aloe(**options) -> CLEVRERAloe:
    """With weights that are all different."""
    torch.manual_seed(0)
    model = CLEVRERAloe(**{**SIZES, **options})
    for value in model.parameters():
        value.data += 0.2 * torch.randn_like(value)
    return model


def batch_of(descriptive: int = 2, options: tuple[int, ...] = (3, 2)) -> dict[str, Tensor]:
    """Questions of which the second kind have so many options each; all places of their texts, padding too."""
    generator = torch.Generator().manual_seed(1)

    def texts(kind: str, rows: int) -> dict[str, Tensor]:
        is_padding = torch.rand(rows, TEXT, generator=generator) < 0.4
        is_padding[:, 0] = False
        return {
            f"{kind}_q_tokens": torch.randint(1, 11, (rows, TEXT), generator=generator).masked_fill(is_padding, 0),
            f"{kind}_q_places": torch.arange(TEXT).repeat(rows, 1),
            f"{kind}_q_pad_mask": is_padding,
        }

    rows = sum(options)
    return {
        "cls_label": torch.randint(5, (descriptive,), generator=generator),
        "cls_video_emb": torch.randn(descriptive, 4, 3, 8, generator=generator),
        "mc_label": torch.randint(2, (rows,), generator=generator),
        "mc_subtype": torch.ones(len(options), dtype=torch.int64),
        "mc_flag": torch.arange(len(options)).repeat_interleave(torch.tensor(options, dtype=torch.int64)),
        "mc_video_emb": torch.randn(len(options), 4, 3, 8, generator=generator),
        **texts("cls", descriptive),
        **texts("mc", rows),
    }


def only(kind: str, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch without the questions of the other kind."""
    return {key: value if key.startswith(kind) else value[:0] for key, value in batch.items()}


def packed(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch as the data set gives it: words first, and no more places than the longest text has words."""
    longest = max(int((~batch[f"{kind}_q_pad_mask"]).sum(dim=1).max()) for kind in KINDS)
    result = dict(batch)
    for kind in KINDS:
        order = batch[f"{kind}_q_pad_mask"].int().argsort(dim=1, stable=True)[:, :longest]
        for name in ("tokens", "places", "pad_mask"):
            result[f"{kind}_q_{name}"] = batch[f"{kind}_q_{name}"].gather(1, order)
    assert longest < TEXT
    return result


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def gradients(model: CLEVRERAloe, batch: dict[str, Tensor]) -> dict[str, Tensor | None]:
    model.zero_grad()
    model.loss(batch, 0)["loss"].backward()
    return {name: value.grad for name, value in model.named_parameters()}


def plain_answers(model: CLEVRERAloe, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """As the paper's code computes it: two passes, everything padded, PyTorch's encoder, CLS first."""
    part, found = model.transformer_model, []
    layer = nn.TransformerEncoderLayer(16, 2, 20, 0.0, norm_first=True, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    weights = {name: value for name, value in part.transformer_encoder.named_parameters() if name != "pos_embedding"}
    for kind in KINDS:
        tokens, slots = batch[f"{kind}_q_tokens"], batch[f"{kind}_video_emb"]
        slots = slots if kind == "cls" else slots[batch["mc_flag"]]
        segments = torch.tensor([0.0, 1.0]).expand(len(tokens), TEXT, 2).clone()
        if kind == "mc":
            segments[:, :6] = torch.tensor([1.0, 0.0])
        words = torch.cat([part.q_embedding(tokens), segments, torch.tensor([1.0, 0.0]).expand_as(segments)], dim=-1)
        marks = torch.tensor([0.0, 1.0]).expand(len(slots), 12, 2)
        seen = part.vision_in_proj(torch.cat([slots.flatten(1, 2), marks], dim=-1))
        row = torch.cat([part.CLS.expand(len(tokens), -1, -1), seen, part.q_in_proj(words)], dim=1)
        mask = torch.cat([torch.zeros(len(tokens), 13, dtype=torch.bool), batch[f"{kind}_q_pad_mask"]], dim=1)
        row = row + part.transformer_encoder.pos_embedding
        row = torch.func.functional_call(encoder, weights, (row,), {"src_key_padding_mask": mask})
        found.append(getattr(part, f"{kind}_answer_mlp")(row[:, 0]))
    return found[0], found[1].flatten()


def test_answers_are_those_of_two_padded_passes() -> None:
    model, batch = aloe(), batch_of()
    expected, given = plain_answers(model, batch), packed(batch)
    for found in (model.answer(batch), model.answer(given)):
        close(found[0], expected[0])
        close(found[1], expected[1])
    terms = model.loss(given, 0)
    losses = [value.mean() for value in answer_losses(*expected, batch)]
    close(torch.stack([terms["cls_answer_loss"], terms["mc_answer_loss"]]), torch.stack(losses))
    found = gradients(model, given)
    model.zero_grad()
    sum(losses).backward()
    for name, value in model.named_parameters():
        torch.testing.assert_close(found[name], value.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_one_pass_equals_two() -> None:
    model, batch = aloe(), batch_of()
    descriptive, choices = model.answer(batch)
    close(model.answer(only("cls", batch))[0], descriptive)
    close(model.answer(only("mc", batch))[1], choices)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_a_kind_that_is_absent_has_loss_and_gradients_of_zero(kind: str, training: bool) -> None:
    model, batch = aloe().train(training), only(kind, batch_of())
    other = next(name for name in KINDS if name != kind)
    terms = {name: value.detach() for name, value in model.loss(batch, 0).items()}
    assert float(terms[f"{other}_answer_loss"]) == 0
    assert float(terms["loss"]) == float(terms[f"{kind}_answer_loss"]) > 0
    found = gradients(model, batch)
    assert [name for name, value in found.items() if value is None] == []
    zero = {name for name, value in found.items() if not value.any()}
    head = f"transformer_model.{other}_answer_mlp"
    assert zero >= {f"{head}.{name}" for name in ("0.weight", "0.bias", "2.weight", "2.bias")}
    assert all(name.startswith(head) for name in zero)


def test_options_are_answered_apart_and_in_any_order() -> None:
    model, batch = aloe(), batch_of(1, (4,))
    choices, order = model.answer(batch)[1], torch.tensor([2, 0, 3, 1])
    rows = ("mc_q_tokens", "mc_q_places", "mc_q_pad_mask", "mc_label", "mc_flag")
    close(model.answer(batch | {name: batch[name][order] for name in rows})[1], choices[order])
    close(model.answer(batch | {name: batch[name][:1] for name in rows})[1], choices[:1])
    assert choices.unique().numel() == 4


def test_what_stands_where_counts() -> None:
    model, batch = aloe(), batch_of()
    before = model.answer(batch)
    swapped = dict(batch)
    for kind in KINDS:  # words with their places in another order
        order = torch.randperm(TEXT, generator=torch.Generator().manual_seed(3))
        for name in ("tokens", "places", "pad_mask"):
            swapped[f"{kind}_q_{name}"] = batch[f"{kind}_q_{name}"][:, order]
    for found, expected in zip(model.answer(swapped), before):
        close(found, expected)
    moved = batch | {"cls_q_places": batch["cls_q_places"].flip(1)}
    assert not torch.allclose(model.answer(moved)[0], before[0], atol=1e-3)
    question = batch | {"mc_video_emb": batch["mc_video_emb"].flip(0)}
    assert not torch.allclose(model.answer(question)[1], before[1], atol=1e-3)


def test_a_model_that_sees_no_slots() -> None:
    model, batch = aloe(question_only=True), batch_of()
    blank = {key: torch.full_like(value, torch.nan) if key.endswith("emb") else value for key, value in batch.items()}
    for found, expected in zip(model.answer(blank), model.answer(batch)):
        assert torch.equal(found, expected)
    assert all(value is not None for value in gradients(model, packed(batch)).values())
    assert not any("vision" in name for name, _ in model.named_parameters())


def test_losses_are_float32_under_autocast() -> None:
    model, batch = aloe(), packed(batch_of())
    expected = gradients(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        terms, logits = model.loss(batch, 0), model.answer(batch)
        found = gradients(model, batch)
    assert {value.dtype for value in (*terms.values(), *logits)} == {torch.float32}
    close_to = {name: float((found[name] - value).norm() / value.norm()) for name, value in expected.items()}
    assert max(close_to.values()) < 0.1, close_to


def test_weights_at_the_published_size() -> None:
    model = CLEVRERAloe()
    exported = original.export_state(model)
    assert sum(value.numel() for value in exported.values()) == 2_879_437
    assert sum(value.numel() for value in model.parameters()) == 2_879_427
    assert {name: tuple(exported[f"transformer_model.{name}"].tolist()) for name in ("text_token", "vision_token")} == {
        "text_token": (1, 0),
        "vision_token": (0, 1),
    }
    part = model.transformer_model
    assert not part.CLS.any()
    assert not part.transformer_encoder.pos_embedding.any()
    first, *others = (dict(layer.named_parameters()) for layer in part.transformer_encoder.layers)
    assert len(others) == 11
    assert all(torch.equal(layer[name], value) for layer in others for name, value in first.items())


def test_a_training_of_the_original_continues(tmp_path: Path) -> None:
    model = aloe()
    exported = original.export_state(model)
    trained = [name for name in exported if name in dict(model.named_parameters())]
    numbers = {name: number for number, name in enumerate(reversed(trained))}  # in another order than ours
    moments = {number: {"exp_avg": torch.full_like(exported[name], number)} for name, number in numbers.items()}
    constants = {name: value for name, value in exported.items() if name not in numbers}
    assert len(constants) == 5
    checkpoint = {
        "state_dict": {f"module.{name}": exported[name] for name in (*constants, *reversed(trained))},
        "opt_state_dict": {"state": moments, "param_groups": [{"lr": 1e-3, "params": list(moments)}]},
        "it": 7,
    }
    state = original.training_state(checkpoint, model, tmp_path / "model_7.pth")
    assert state["step"] == 6
    model.load_state_dict(state["model"])
    for number, (name, value) in enumerate(model.named_parameters()):
        moment = state["optimizer"]["state"][number]["exp_avg"]
        assert moment.shape == value.shape
        assert float(moment.flatten()[0]) == numbers[name], name


def test_what_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="pos_enc 'sin' is not 'learnable'"):
        CLEVRERAloe(pos_enc="sin")
    with pytest.raises(ValueError, match=r"input_len=32 leaves no place for slots beside 20 \+ 12 words"):
        CLEVRERAloe(input_len=32)
    with pytest.raises(ValueError, match=r"12 slots in all frames, but input_len leaves place for 10 beside the text"):
        aloe(input_len=19).answer(batch_of())
    with pytest.raises(ParamsError, match=r"use_mask_obj_loss is True, expected False"):
        build_model(BaseParams({"model": "CLEVRERAloe", "loss_dict": {"use_mask_obj_loss": True}}))
    with pytest.raises(ParamsError, match=r"model 'Aloe' is not one of CLEVRERAloe; did you mean 'CLEVRERAloe'\?"):
        build_model(BaseParams({"model": "Aloe"}))
