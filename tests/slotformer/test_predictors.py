"""Predictors of SAVi, and the transformer in them beside PyTorch's."""

import pytest
import torch
from torch import Tensor, nn

from core.nn.transformer import TransformerEncoder
from slotformer.base_slots.models.predictors import (
    ResidualMLPPredictor,
    RNNPredictorWrapper,
    TransformerPredictor,
    build_predictor,
)

SIZE = 8


def frames(count: int = 4) -> Tensor:
    return torch.randn(2, count, 3, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("norm_first", [True, False])
def test_transformer_is_that_of_pytorch(norm_first: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(SIZE, 2, 16, dropout=0.0, batch_first=True, norm_first=norm_first)
    theirs = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    for value in theirs.parameters():
        nn.init.normal_(value, std=0.5)
    ours = TransformerEncoder(SIZE, 3, 2, 16, norm_first, dropout=0.0)
    ours.load_state_dict(theirs.state_dict())
    tokens = frames()[:, 0]
    torch.testing.assert_close(ours(tokens), theirs(tokens), rtol=1e-4, atol=1e-5)


def test_layers_of_a_transformer_start_alike_and_as_those_of_pytorch() -> None:
    torch.manual_seed(0)
    first, second = TransformerEncoder(64, 2, 4, 128).layers
    theirs = nn.TransformerEncoderLayer(64, 4, 128)
    for name, value in first.named_parameters():
        assert torch.equal(value, second.get_parameter(name)), name
        spread = theirs.get_parameter(name).std()
        torch.testing.assert_close(value.std(), spread, rtol=0.1, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    first.linear1.weight.data.zero_()
    assert second.linear1.weight.any()


def test_dropout_acts_in_training_only() -> None:
    predictor = TransformerPredictor(SIZE, num_heads=2, ffn_dim=16)
    slots = frames()[:, 0]
    assert not torch.equal(predictor(slots)[0], predictor(slots)[0])
    predictor.eval()
    assert torch.equal(predictor(slots)[0], predictor(slots)[0])


def test_residual_of_the_mlp_is_the_normed_slot_where_norm_comes_first() -> None:
    torch.manual_seed(0)
    slots = frames()[:, 0]
    for norm_first in (True, False):
        predictor = ResidualMLPPredictor([SIZE, 16, SIZE], norm_first)
        normed = predictor.ln(slots)
        expected = predictor.mlp(normed) + (normed if norm_first else slots)
        torch.testing.assert_close(predictor(slots)[0], expected)


@pytest.mark.parametrize("rnn_cell", ["LSTM", "GRU"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_memory_is_that_of_one_recurrent_pass(rnn_cell: str, num_layers: int) -> None:
    torch.manual_seed(0)
    base = ResidualMLPPredictor([SIZE, SIZE])
    predictor = RNNPredictorWrapper(base, SIZE, 5, num_layers, rnn_cell)
    memory, found = None, []
    for slots in frames().unbind(1):
        predicted, memory = predictor(slots, memory)
        found.append(predicted)
    sequences = base(frames().flatten(0, 1))[0].view(2, 4, 3, SIZE).transpose(1, 2).flatten(0, 1)
    outputs, _ = predictor.rnn(sequences.transpose(0, 1))
    expected = predictor.out_projector(outputs).transpose(0, 1).view(2, 3, 4, SIZE).transpose(1, 2)
    torch.testing.assert_close(torch.stack(found, dim=1), expected)
    assert memory.steps == 4
    after = predictor.burnin(frames())
    assert after.steps == 4
    for ours, theirs in zip(after.hidden, memory.hidden, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gradient_stops_every_so_many_calls_but_not_at_the_first() -> None:
    predictor = RNNPredictorWrapper(ResidualMLPPredictor([SIZE, SIZE]), SIZE, 5, sg_every=2)
    inputs, memory = [slots.requires_grad_() for slots in frames().unbind(1)], None
    for slots in inputs:
        predicted, memory = predictor(slots, memory)
    predicted.sum().backward()
    assert [slots.grad is not None and bool(slots.grad.any()) for slots in inputs] == [False, False, False, True]


@pytest.mark.parametrize("pred_type", ["transformer", "mlp"])
@pytest.mark.parametrize("pred_rnn", [True, False])
def test_slots_have_no_order(pred_type: str, pred_rnn: bool) -> None:
    torch.manual_seed(0)
    predictor = build_predictor(SIZE, 16, pred_type, pred_rnn, pred_num_heads=2, pred_ffn_dim=16).eval()
    order = torch.tensor([2, 0, 1])
    plain, shuffled = None, None
    for slots in frames().unbind(1):
        found, plain = predictor(slots, plain)
        again, shuffled = predictor(slots[:, order], shuffled)
        torch.testing.assert_close(again, found[:, order])
    assert (plain is None) == (not pred_rnn)
