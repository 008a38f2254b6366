"""What STEVE's token decoder must do, whatever its weights: see no later word, and generate fast what it would slow."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from slotformer.base_slots.models import causal_attention as attention
from slotformer.base_slots.models.causal_attention import causal_attention
from slotformer.base_slots.models.linear_cross_entropy import linear_cross_entropy
from slotformer.base_slots.models.token_decoder import TokenDecoder

VOCABULARY, WIDTH, WORDS, SLOTS = 11, 8, 12, 3


def lively(dropout: float = 0.0) -> TokenDecoder:
    """Small, with a head large enough that words differ."""
    torch.manual_seed(0)
    model = TokenDecoder(VOCABULARY, WIDTH, num_heads=2, num_layers=2, num_tokens=WORDS, dropout=dropout)
    model.head.weight.data *= 6
    return model


def slots(count: int = 4) -> Tensor:
    return torch.randn(count, SLOTS, WIDTH, generator=torch.Generator().manual_seed(1))


def words(count: int = 4, length: int = WORDS) -> Tensor:
    return torch.randint(VOCABULARY, (count, length), generator=torch.Generator().manual_seed(2))


def qkv(length: int, samples: int = 2, heads: int = 3, width: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(samples, heads, length, width, generator=generator, requires_grad=True) for _ in range(3)]


def test_a_later_word_changes_no_earlier_logits() -> None:
    model, tokens = lively().eval(), words()[:, :-1]
    logits = model(slots(), tokens)
    for place in range(WORDS - 1):
        other = tokens.clone()
        other[:, place] = (other[:, place] + 1) % VOCABULARY
        changed = model(slots(), other)
        # The word at `place` is what the logits after it read.
        assert torch.equal(changed[:, : place + 1], logits[:, : place + 1])
        assert not torch.allclose(changed[:, place + 1], logits[:, place + 1])


def test_logits_depend_on_the_slots_and_not_on_their_order() -> None:
    model, tokens = lively().eval(), words()[:, :-1]
    logits = model(slots(), tokens)
    torch.testing.assert_close(model(slots()[:, [2, 0, 1]], tokens), logits)
    assert not torch.allclose(model(slots().flip(0), tokens), logits, atol=1e-2)


def test_generation_equals_running_the_prefix_again_for_every_word() -> None:
    model = lively().eval()
    generated = model.generate(slots(), with_logits=True)
    tokens, steps = words(length=0), []
    for _ in range(WORDS):
        steps.append(model(slots(), tokens)[:, -1])
        tokens = torch.cat((tokens, steps[-1].argmax(dim=-1, keepdim=True)), dim=1)
    assert torch.equal(generated.tokens, tokens)
    torch.testing.assert_close(generated.logits, torch.stack(steps, dim=1), rtol=1e-4, atol=1e-5)
    assert len(tokens.unique()) > 2
    few = model.generate(slots(), steps=5)
    assert torch.equal(few.tokens, tokens[:, :5])
    assert few.logits is None


def test_samples_follow_the_probabilities_at_the_temperature() -> None:
    model, count, temperature = lively().eval(), 4000, 2.0
    torch.manual_seed(5)
    first = model.generate(slots(1).expand(count, -1, -1), steps=1, temperature=temperature).tokens[:, 0]
    expected = (model(slots(1), words(1, 0))[0, 0] / temperature).softmax(dim=-1)
    found = first.bincount(minlength=VOCABULARY) / count
    torch.testing.assert_close(found, expected, rtol=0, atol=4 * (0.25 / count) ** 0.5)
    greedy = model.generate(slots()).tokens
    assert torch.equal(model.generate(slots(), temperature=1e-4).tokens, greedy)


def test_loss_is_the_cross_entropy_of_all_logits() -> None:
    """Value and gradients, though frames and rows go through apart."""
    model, given, tokens = lively(), slots().requires_grad_(), words()
    plain = F.cross_entropy(model(given, tokens[:, :-1]).flatten(0, 1), tokens.flatten())
    expected = torch.autograd.grad(plain, [given, *model.parameters()])
    loss = model.loss(given, tokens)
    found = torch.autograd.grad(3 * loss, [given, *model.parameters()])
    torch.testing.assert_close(loss, plain)
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, 3 * theirs, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(model.loss(given, tokens), plain)


def test_cross_entropy_in_pieces_equals_that_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slotformer.base_slots.models.linear_cross_entropy.FLOATS_IN_CACHE", 7 * VOCABULARY)
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(50, WIDTH, generator=generator, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, requires_grad=True)
    targets = torch.randint(VOCABULARY, (50,), generator=generator)
    plain = F.cross_entropy(features @ weight.T, targets, reduction="sum")
    loss = linear_cross_entropy(features, weight, targets)
    torch.testing.assert_close(loss, plain)
    found, expected = (torch.autograd.grad(value, (features, weight)) for value in (loss, plain))
    torch.testing.assert_close(found, expected)


def test_most_likely_words_are_those_of_the_logits() -> None:
    model = lively().eval()
    expected = model(slots(), words()[:, :-1]).argmax(dim=-1)
    assert torch.equal(model.most_likely(slots(), words()), expected)


@pytest.mark.parametrize("length", [5, attention.ROWS_TOGETHER, attention.ROWS_TOGETHER + 3])
def test_attention_in_pieces_equals_the_fused_one_where_nothing_is_dropped(length: int) -> None:
    inputs, never = qkv(length), 1e-12
    pieces, fused = causal_attention(*inputs, never), causal_attention(*inputs, 0.0)
    torch.testing.assert_close(pieces, fused, rtol=1e-4, atol=1e-5)
    found, expected = (torch.autograd.grad(value.square().sum(), inputs) for value in (pieces, fused))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_dropout_acts_on_the_weights_and_keeps_their_mean() -> None:
    queries, keys, _ = (value.detach() for value in qkv(6, samples=1, heads=1, width=6))
    values = torch.eye(6)[None, None]  # so that the result is the weights
    weights = causal_attention(queries, keys, values, 0.0)
    torch.manual_seed(6)
    drawn = torch.stack([causal_attention(queries, keys, values, 0.25) for _ in range(4000)])
    torch.testing.assert_close(drawn.mean(dim=0), weights, rtol=0, atol=0.04)
    seen = torch.ones(6, 6, dtype=torch.bool).tril()
    assert abs(float((drawn[..., seen] == 0).float().mean()) - 0.25) < 0.01
    kept = drawn[0][drawn[0] > 0]
    torch.testing.assert_close(kept, (weights / 0.75)[drawn[0] > 0])


def test_dropout_acts_in_training_alone() -> None:
    model = lively(dropout=0.5)
    with torch.no_grad():
        assert model.loss(slots(), words()) != model.loss(slots(), words())
        model.eval()
        assert model.loss(slots(), words()) == model.loss(slots(), words())


def test_half_precision_is_close() -> None:
    model, given = lively(), slots().requires_grad_()
    exact = model.loss(given, words())
    (of_slots,) = torch.autograd.grad(exact, given)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(given, words())
    assert loss.dtype == torch.float32
    (found,) = torch.autograd.grad(loss, given)
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0)
    assert (found - of_slots).norm() < 0.05 * of_slots.norm()


def test_errors_name_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"dec_d_model=10 does not divide into dec_num_heads=4"):
        TokenDecoder(VOCABULARY, 10, num_heads=4)
    with pytest.raises(ValueError, match=rf"{WORDS + 1} words, but a frame of this model has {WORDS}"):
        lively()(slots(), words())
    with pytest.raises(ValueError, match=r"99 words"):
        lively().eval().generate(slots(), steps=99)
