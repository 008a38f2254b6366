"""The transformer of STEVE (Singh et al. 2022), which predicts the words of a frame one by one from its slots.

Shapes: B frames, N slots, D width, L words of a frame, V the vocabulary, h heads of E = D / h numbers.
Differs from the original code, with equal numbers: no masks are stored, generation keeps keys and values of the words
so far, those of the slots are made once, and logits exist only where someone reads them.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Integer
from torch import Tensor, nn

from core.nn.dropout import dropout
from core.nn.linear import Linear
from core.nn.summed_parts import sum_over_parts
from slotformer.base_slots.models.causal_attention import causal_attention
from slotformer.base_slots.models.linear_cross_entropy import linear_cross_entropy, rows_together


def attend_to_few(
    queries: Float[Tensor, "B h L E"],
    keys: Float[Tensor, "B h N E"],
    values: Float[Tensor, "B h N E"],
    probability: float,
) -> Float[Tensor, "B h L E"]:
    """Attention with dropout of that probability on its weights, for an N as small as that of slots.

    On the CPU the places lie side by side: a softmax over many rows of few takes twenty times as long there.
    """
    if queries.device.type != "cpu":
        return F.scaled_dot_product_attention(queries, keys, values, dropout_p=probability)
    scores = torch.matmul(keys * keys.shape[-1] ** -0.5, queries.transpose(2, 3))
    weights = dropout(scores.float().softmax(dim=2), probability)
    return torch.matmul(weights.to(values.dtype).transpose(2, 3), values)


class Attention(nn.Module):
    """Projections of multi-head attention, all without bias; the last is initialised with `out_gain`."""

    def __init__(self, d_model: int, num_heads: int, out_gain: float, dropout: float):
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"dec_d_model={d_model} does not divide into dec_num_heads={num_heads} heads")
        self.num_heads = num_heads
        self.proj_q, self.proj_k, self.proj_v, self.proj_o = (Linear(d_model, d_model, bias=False) for _ in range(4))
        for projection in (self.proj_q, self.proj_k, self.proj_v):
            nn.init.xavier_uniform_(projection.weight)
        nn.init.xavier_uniform_(self.proj_o.weight, gain=out_gain)
        self.dropout = dropout

    def queries(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B h L E"]:
        return self._heads(self.proj_q(tokens))

    def keys_values(self, tokens: Float[Tensor, "B L D"]) -> tuple[Float[Tensor, "B h L E"], Float[Tensor, "B h L E"]]:
        return self._heads(self.proj_k(tokens)), self._heads(self.proj_v(tokens))

    def out(self, found: Float[Tensor, "B h L E"]) -> Float[Tensor, "B L D"]:
        return dropout(self.proj_o(found.transpose(1, 2).flatten(2)), self.dropout_now)

    @property
    def dropout_now(self) -> float:
        return self.dropout if self.training else 0.0

    def _heads(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B h L E"]:
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Cache(NamedTuple):
    """Keys and values of one block: of the words so far, with room for those to come, and of the slots."""

    keys: Float[Tensor, "B h L E"]
    values: Float[Tensor, "B h L E"]
    slot_keys: Float[Tensor, "B h N E"]
    slot_values: Float[Tensor, "B h N E"]


class Block(nn.Module):
    """Causal self-attention, attention to the slots, feed-forward net; layer norm on the branches' inputs.

    In the first block the tokens themselves are replaced by their layer norm, as in the original.
    """

    def __init__(self, d_model: int, num_heads: int, num_layers: int, dropout: float, is_first: bool):
        super().__init__()
        gain = (3 * num_layers) ** -0.5
        self.is_first = is_first
        self.self_attn_layer_norm = nn.LayerNorm(d_model)
        self.self_attn = Attention(d_model, num_heads, gain, dropout)
        self.encoder_decoder_attn_layer_norm = nn.LayerNorm(d_model)
        self.encoder_decoder_attn = Attention(d_model, num_heads, gain, dropout)
        self.ffn_layer_norm = nn.LayerNorm(d_model)
        self.ffn = nn.Sequential(Linear(d_model, 4 * d_model), nn.ReLU(), Linear(4 * d_model, d_model))
        nn.init.kaiming_uniform_(self.ffn[0].weight, nonlinearity="relu")
        nn.init.xavier_uniform_(self.ffn[2].weight, gain=gain)
        nn.init.zeros_(self.ffn[0].bias)
        nn.init.zeros_(self.ffn[2].bias)

    def forward(self, tokens: Float[Tensor, "B L D"], slots: Float[Tensor, "B N D"]) -> Float[Tensor, "B L D"]:
        normed = self.self_attn_layer_norm(tokens)
        attention = self.self_attn
        found = causal_attention(attention.queries(normed), *attention.keys_values(normed), attention.dropout_now)
        tokens = (normed if self.is_first else tokens) + attention.out(found)
        return self._from_slots(tokens, *self.encoder_decoder_attn.keys_values(slots))

    def cache(self, slots: Float[Tensor, "B N D"], length: int) -> Cache:
        """Room for `length` words and what the slots give."""
        keys, values = self.encoder_decoder_attn.keys_values(slots)
        words = keys.new_empty(*keys.shape[:2], length, keys.shape[3])
        return Cache(words, torch.empty_like(words), keys, values)

    def step(self, token: Float[Tensor, "B 1 D"], cache: Cache, position: int) -> Float[Tensor, "B 1 D"]:
        """As `forward` for the word at `position` alone, which enters the cache."""
        normed = self.self_attn_layer_norm(token)
        seen = slice(position + 1)
        keys, values = self.self_attn.keys_values(normed)
        cache.keys[:, :, position], cache.values[:, :, position] = keys[:, :, 0], values[:, :, 0]
        found = F.scaled_dot_product_attention(
            self.self_attn.queries(normed), cache.keys[:, :, seen], cache.values[:, :, seen]
        )
        token = (normed if self.is_first else token) + self.self_attn.out(found)
        return self._from_slots(token, cache.slot_keys, cache.slot_values)

    def _from_slots(
        self, tokens: Float[Tensor, "B L D"], keys: Float[Tensor, "B h N E"], values: Float[Tensor, "B h N E"]
    ) -> Float[Tensor, "B L D"]:
        attention = self.encoder_decoder_attn
        queries = attention.queries(self.encoder_decoder_attn_layer_norm(tokens))
        tokens = tokens + attention.out(attend_to_few(queries, keys, values, attention.dropout_now))
        return tokens + dropout(self.ffn(self.ffn_layer_norm(tokens)), attention.dropout_now)


class Positions(nn.Module):
    """A learned vector for each position, from a standard normal cut at two."""

    def __init__(self, length: int, d_model: int):
        super().__init__()
        self.pe = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, length, d_model)))


class Blocks(nn.Module):
    """The blocks and a last layer norm."""

    def __init__(self, d_model: int, num_heads: int, num_layers: int, dropout: float):
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(d_model, num_heads, num_layers, dropout, is_first=number == 0) for number in range(num_layers)
        )
        self.layer_norm = nn.LayerNorm(d_model)


class Generation(NamedTuple):
    """Words that the decoder made up."""

    tokens: Int64[Tensor, "B L"]
    logits: Float[Tensor, "B L V"] | None
    """What they were chosen by, if asked for."""


class TokenDecoder(nn.Module):
    """Transformer decoder over the `num_tokens` words of a frame, conditioned on its slots of size `d_model`.

    Word number `vocab_size` is the start. Slots have no positions.
    """

    def __init__(
        self,
        vocab_size: int = 4096,
        d_model: int = 192,
        num_heads: int = 4,
        num_layers: int = 4,
        num_tokens: int = 1024,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.vocab_size = vocab_size
        self.num_tokens = num_tokens
        self.in_proj = Linear(d_model, d_model)
        self.tok_emb = nn.Embedding(vocab_size + 1, d_model)
        self.pos_emb = Positions(num_tokens, d_model)
        self.tf_dec = Blocks(d_model, num_heads, num_layers, dropout)
        self.head = Linear(d_model, vocab_size, bias=False)
        self.dropout = dropout

    def loss(self, slots: Float[Tensor, "B N D"], tokens: Integer[Tensor, "B L"]) -> Float[Tensor, ""]:
        """Mean cross entropy, in nats per word, of every word given the slots and the words before it.

        On the CPU the activations of one frame exist at a time: its gradients are made at once.
        """
        together = 1 if slots.device.type == "cpu" else len(slots)
        summed = sum_over_parts(self._summed_loss, (slots, tokens), (), self.parameters(), together)
        return summed / tokens.numel()

    def _summed_loss(self, slots: Float[Tensor, "B N D"], tokens: Integer[Tensor, "B L"]) -> Float[Tensor, ""]:
        features = self.features(slots, tokens[:, :-1])
        return linear_cross_entropy(features.flatten(0, 1), self.head.weight, tokens.flatten())

    def forward(self, slots: Float[Tensor, "B N D"], tokens: Integer[Tensor, "B before"]) -> Float[Tensor, "B L V"]:
        """Logits of the first word, and of each word after one of `tokens`: L is one more than these."""
        return self.head(self.features(slots, tokens))

    def most_likely(self, slots: Float[Tensor, "B N D"], tokens: Integer[Tensor, "B L"]) -> Int64[Tensor, "B L"]:
        """The best word at every place, given the true ones before it; much cheaper than `generate`."""
        features = self.features(slots, tokens[:, :-1]).flatten(0, 1)
        few = rows_together(self.vocab_size, features.device)
        return torch.cat([self.head(rows).argmax(dim=-1) for rows in features.split(few)]).view(tokens.shape)

    def features(self, slots: Float[Tensor, "B N D"], tokens: Integer[Tensor, "B before"]) -> Float[Tensor, "B L D"]:
        """What the head reads at every place: the start and `tokens`. Raises ValueError if these are too many."""
        length = tokens.shape[1] + 1
        self._check_length(length)
        start = tokens.new_full((len(tokens), 1), self.vocab_size)
        embedded = self.tok_emb(torch.cat((start, tokens), dim=1)) + self.pos_emb.pe[:, :length]
        found, slots = dropout(embedded, self.dropout if self.training else 0.0), self.in_proj(slots)
        for block in self.tf_dec.blocks:
            found = block(found, slots)
        return self.tf_dec.layer_norm(found)

    @torch.no_grad()
    def generate(
        self,
        slots: Float[Tensor, "B N D"],
        steps: int | None = None,
        temperature: float | None = None,
        with_logits: bool = False,
    ) -> Generation:
        """The first `steps` words (default: all), each given those before it. Needs eval mode.

        Each is the most likely one, or with a `temperature` a sample of softmax(logits / temperature).
        """
        assert not self.training, "dropout would act"
        steps = steps or self.num_tokens
        self._check_length(steps)
        slots = self.in_proj(slots)
        caches = [block.cache(slots, steps) for block in self.tf_dec.blocks]
        word = torch.full((len(slots), 1), self.vocab_size, device=slots.device)
        words, logits = [], []
        for position in range(steps):
            found = self.tok_emb(word) + self.pos_emb.pe[:, position, None]
            for block, cache in zip(self.tf_dec.blocks, caches):
                found = block.step(found, cache, position)
            scores = self.head(self.tf_dec.layer_norm(found[:, 0])).float()
            if temperature is None:
                word = scores.argmax(dim=-1, keepdim=True)
            else:
                word = (scores / temperature).softmax(dim=-1).multinomial(1)
            words.append(word)
            if with_logits:
                logits.append(scores)
        return Generation(torch.cat(words, dim=1), torch.stack(logits, dim=1) if with_logits else None)

    def _check_length(self, length: int) -> None:
        if length > self.num_tokens:
            raise ValueError(f"TokenDecoder: {length} words, but a frame of this model has {self.num_tokens}")
