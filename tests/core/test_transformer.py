"""Transformer encoders, their matrix products, dropout and attention with dropout, against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn.chunked_attention import WEIGHTS_TOGETHER
from core.nn.dropout import draw, drop_, drop_gradient, enlargement, keep_mask
from core.nn.products import is_plain, parameter_gradients, product
from core.nn.transformer import TransformerEncoder
from core.nn.transformer_branches import attention_branch, feed_forward_branch


def encoder(norm_first: bool = True, rate: float = 0.0) -> TransformerEncoder:
    torch.manual_seed(0)
    found = TransformerEncoder(8, 3, 2, 16, norm_first, rate)
    for value in found.parameters():
        value.data += 0.3 * torch.randn_like(value)
    return found


def tokens() -> Tensor:
    return torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(1))


def gradients(found: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(found.square().sum(), of)


@pytest.mark.parametrize("norm_first", [True, False])
def test_encoder_is_that_of_pytorch(norm_first: bool) -> None:
    ours = encoder(norm_first)
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, norm_first=norm_first, batch_first=True)
    theirs = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(tokens()), theirs(tokens()))
    found, expected = (gradients(model(tokens()), *model.parameters()) for model in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("last", [1, 4, 6])
def test_last_tokens_alone_are_those_of_the_whole(norm_first: bool, last: int) -> None:
    model = encoder(norm_first)
    whole, alone = model(tokens())[:, -last:], model(tokens(), last)
    torch.testing.assert_close(alone, whole)
    parameters = list(model.parameters())
    torch.testing.assert_close(gradients(alone, *parameters), gradients(whole, *parameters), rtol=1e-4, atol=1e-4)


def test_dropout_acts_in_training_alone() -> None:
    model = encoder(rate=0.5)
    assert not torch.equal(model(tokens()), model(tokens()))
    torch.manual_seed(3)
    first = model(tokens())
    torch.manual_seed(3)
    assert torch.equal(model(tokens()), first)
    model.eval()
    torch.testing.assert_close(model(tokens()), encoder()(tokens()))


@pytest.mark.parametrize("rows", [1, 7, 48])
def test_product_is_that_of_pytorch(rows: int) -> None:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(rows, 6, generator=generator)
    weight, bias = (torch.randn(size, generator=generator, requires_grad=True) for size in ((4, 6), (4,)))
    assert is_plain(inputs)
    expected = F.linear(inputs, weight, bias)
    torch.testing.assert_close(product(inputs, weight.detach(), bias.detach()), expected)
    torch.testing.assert_close(product(expected.detach(), weight.detach().t()), expected @ weight)
    apart = torch.stack([weight.detach(), weight.detach()], dim=1)[:, 1]  # rows that do not lie in one piece
    torch.testing.assert_close(product(inputs, apart, bias.detach()), expected)
    of_result = torch.randn(rows, 4, generator=generator)
    found = parameter_gradients(inputs, of_result)
    torch.testing.assert_close(found, torch.autograd.grad(expected, (weight, bias), of_result))
    assert not is_plain(inputs.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_plain(inputs)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_dropout_keeps_its_share_and_the_mean(probability: float) -> None:
    torch.manual_seed(0)
    values = torch.ones(301, 999)
    draws = drop_(values, probability)
    keep, scale = keep_mask(draws, probability).view(values.shape), enlargement(probability)
    assert sorted(keep.unique().tolist()) == [0, 1]
    assert abs(float(keep.mean()) - (1 - probability)) < 3e-3
    assert scale == pytest.approx(1 / (1 - probability), rel=1e-4)
    for side in (keep.mean(dim=0), keep.mean(dim=1)):
        assert side.std() < 2 * (probability * (1 - probability) * side.numel() / keep.numel()) ** 0.5
    assert torch.equal(values, keep * scale)
    assert torch.equal(drop_gradient(torch.ones_like(values), draws, probability), values)
    assert drop_(values, 0.0) is None
    assert torch.equal(values, keep * scale)


def test_dropout_is_as_fine_as_two_bytes() -> None:
    torch.manual_seed(0)
    draws = draw(2_000_000)
    rare, rarer = (1 - float(keep_mask(draws, rate).mean()) for rate in (0.001, 0.0005))
    assert (rare, rarer) == pytest.approx((0.001, 0.0005), rel=0.1)
    dropped = 1 - keep_mask(draws, 0.1)
    beside = float((dropped[1:] * dropped[:-1]).mean())
    assert beside == pytest.approx(0.01, rel=0.02), "neighbours share a byte, but are dropped independently"


def plain_branches(given: list[Tensor], last: int, rate: float, is_padding: Tensor | None = None) -> Tensor:
    """Both branches one operation after the other, with the same draws in the same order."""
    tokens, in_weight, in_bias, out_weight, out_bias, *feed_forward = given

    def drop(values: Tensor) -> Tensor:
        keep = keep_mask(draw(values.numel()), rate).view(values.shape)
        return values * keep * enlargement(rate)

    def heads(part: int) -> Tensor:
        rows = slice(8 * part, 8 * part + 8)
        return F.linear(tokens, in_weight[rows], in_bias[rows]).unflatten(-1, (2, 4)).transpose(1, 2)

    scores = heads(0)[:, :, -last:] @ heads(1).transpose(-1, -2) / 2
    if is_padding is not None:
        scores = scores.masked_fill(is_padding[:, None, None], -torch.inf)
    found = (drop(scores.softmax(dim=-1)) @ heads(2)).transpose(1, 2).flatten(2)
    found = drop(F.linear(found, out_weight, out_bias))
    hidden = drop(F.linear(found, *feed_forward[:2]).relu())
    return drop(F.linear(hidden, *feed_forward[2:]))


@pytest.mark.parametrize("last", [2, 6])
@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_branches_by_hand_are_those_of_autograd(last: int, rate: float) -> None:
    generator = torch.Generator().manual_seed(1)
    sizes = ((2, 6, 8), (24, 8), (24,), (8, 8), (8,), (16, 8), (16,), (8, 16), (8,))
    given = [(0.4 * torch.randn(size, generator=generator)).requires_grad_() for size in sizes]
    for is_padding in (None, torch.rand(2, 6, generator=generator) < 0.4):
        torch.manual_seed(5)
        found = feed_forward_branch(attention_branch(*given[:5], 2, last, rate, is_padding), *given[5:], rate)
        torch.manual_seed(5)
        expected = plain_branches(given, last, rate, is_padding)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(gradients(found, *given), gradients(expected, *given), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_attention_in_chunks_is_that_of_the_whole(padded: bool, rate: float) -> None:
    batch, length = 40, 96
    assert 2 * batch * length**2 > WEIGHTS_TOGETHER
    generator = torch.Generator().manual_seed(1)
    sizes = ((batch, length, 8), (24, 8), (24,), (8, 8), (8,))
    given = [(0.4 * torch.randn(size, generator=generator)).requires_grad_() for size in sizes]
    is_padding = torch.arange(length) >= torch.arange(1, batch + 1)[:, None] if padded else None
    torch.manual_seed(5)
    found = attention_branch(*given, 2, length, rate, is_padding)
    torch.manual_seed(5)
    rows = [part.unflatten(-1, (2, 4)).transpose(1, 2) for part in F.linear(given[0], *given[1:3]).chunk(3, dim=-1)]
    scores = rows[0] @ rows[1].transpose(-1, -2) / 2
    if padded:
        scores = scores.masked_fill(is_padding[:, None, None], -torch.inf)
    weights = scores.softmax(dim=-1)
    if rate:
        weights = weights * keep_mask(draw(weights.numel()), rate).view(weights.shape) * enlargement(rate)
    expected = F.linear((weights @ rows[2]).transpose(1, 2).flatten(2), *given[3:])
    if rate:
        expected = expected * keep_mask(draw(expected.numel()), rate).view(expected.shape) * enlargement(rate)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradients(found, *given), gradients(expected, *given), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("last", [None, 1])
def test_padding_is_not_looked_at(norm_first: bool, last: int | None) -> None:
    model, is_padding = encoder(norm_first), torch.tensor([[False] * 6, [False, True, True, False, True, False]])
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, norm_first=norm_first, batch_first=True)
    theirs = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    theirs.load_state_dict(model.state_dict())
    expected = theirs(tokens(), src_key_padding_mask=is_padding)[:, 0 if last is None else -last :]
    found = model(tokens(), last, is_padding)
    torch.testing.assert_close(found, expected)
    changed = torch.where(is_padding[..., None], 7.0, tokens())
    torch.testing.assert_close(model(changed, 1, is_padding), found[:, -1:])
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(tokens(), last, is_padding).float(), expected, rtol=0.1, atol=0.1)


def test_branches_take_any_precision() -> None:
    model = encoder()
    expected = model(tokens())
    torch.testing.assert_close(model.double()(tokens().double()).float(), expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model.float()(tokens()).float(), expected, rtol=0.1, atol=0.1)
