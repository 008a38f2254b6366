"""Aloe (Ding et al. 2021) as SlotFormer trains it: a transformer answers questions about the slots of a video.

Shapes: Q1 descriptive questions; Q2 others, whose R choices are a row each; T frames of N slots of size C; W words;
L tokens of size D in a row. Differs from the original code, with equal numbers: questions of both kinds are one batch;
the slots of a question are projected once for all its choices; padding is left out as far as all texts have some; the
last layer makes the token that is read and no other. In several processes losses are means over all of their questions.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from core.data.loader import Batch
from core.nn.global_means import global_means
from core.nn.transformer import TransformerEncoder

NUM_WORDS, NUM_ANSWERS = 82, 22
"""Of CLEVRER's questions and answers, with padding."""
KINDS = ("cls", "mc")
"""The keys of a batch begin with these: of descriptive questions, of those with choices."""


class AloeTransformer(nn.Module):
    """A token CLS sees slots and words, and says the answer. See CLEVRERAloe for the arguments."""

    def __init__(
        self,
        input_len: int,
        input_dim: int,
        num_layers: int,
        num_heads: int,
        ffn_dim: int,
        norm_first: bool,
        cls_mlp_size: int,
        max_question_len: int,
        max_choice_len: int,
        question_vocab_size: int,
        answer_vocab_size: int,
        vision_dim: int,
        question_only: bool,
        dropout: float,
    ):
        super().__init__()
        d_model = (input_dim + 2) * num_heads
        self.max_question_len = max_question_len
        self.num_slots = input_len - max_question_len - max_choice_len
        """Of all frames together."""
        self.CLS = nn.Parameter(torch.zeros(1, 1, d_model))
        self.transformer_encoder = TransformerEncoder(d_model, num_layers, num_heads, ffn_dim, norm_first, dropout)
        # The original keeps its positions there: of CLS, the slots and the text, in this order.
        self.transformer_encoder.pos_embedding = nn.Parameter(torch.zeros(1, 1 + input_len, d_model))
        self.q_embedding = nn.Embedding(question_vocab_size, input_dim - 2)
        self.q_in_proj = nn.Linear(input_dim + 2, d_model)
        self.cls_answer_mlp = _head(d_model, cls_mlp_size, answer_vocab_size)
        self.mc_answer_mlp = _head(d_model, cls_mlp_size, 1)
        self.vision_in_proj = None if question_only else nn.Linear(vision_dim + 2, d_model)

    def forward(self, batch: Batch) -> tuple[Float[Tensor, "Q1 A"], Float[Tensor, " R"]]:
        """Logits of every answer to the descriptive questions, and of every choice to be correct."""
        tokens, is_padding = self.embed(batch)
        found = self.transformer_encoder(tokens, 1, is_padding).squeeze(1)
        descriptive, choices = found.tensor_split([len(batch["cls_q_tokens"])])
        return self.cls_answer_mlp(descriptive), self.mc_answer_mlp(choices).flatten(0)

    def embed(self, batch: Batch) -> tuple[Float[Tensor, "rows L D"], Bool[Tensor, "rows L"]]:
        """The tokens of all descriptive questions, then of all choices, at their positions, and which are padding.

        A row holds slots, words, and CLS as the last one.
        """
        words, is_padding = self._words(batch)
        parts = [words, (self.CLS + self._positions(0, 1)).expand(len(words), -1, -1)]
        if self.vision_in_proj is not None:
            parts.insert(0, self._slots(batch))
        tokens = torch.cat(parts, dim=1)
        return tokens, F.pad(is_padding, (tokens.shape[1] - words.shape[1] - 1, 1))

    def _words(self, batch: Batch) -> tuple[Float[Tensor, "rows W D"], Bool[Tensor, "rows W"]]:
        tokens, places, is_padding = (
            torch.cat([batch[f"{kind}_q_{what}"] for kind in KINDS]) for what in ("tokens", "places", "pad_mask")
        )
        has_choices = torch.arange(len(tokens), device=tokens.device) >= len(batch["cls_q_tokens"])
        of_question = has_choices[:, None] & (places < self.max_question_len)
        # Two marks: (1, 0) on questions that have choices, else (0, 1); and (1, 0) on all words.
        marks = torch.stack(
            [of_question, ~of_question, torch.ones_like(of_question), torch.zeros_like(of_question)], -1
        )
        words = self.q_in_proj(torch.cat([self.q_embedding(tokens), marks.float()], dim=-1))
        return words + self._positions(1 + self.num_slots)[0, places], is_padding

    def _slots(self, batch: Batch) -> Float[Tensor, "rows TN D"]:
        slots = torch.cat([batch[f"{kind}_video_emb"] for kind in KINDS]).flatten(1, 2)
        if slots.shape[1] != self.num_slots:
            raise ValueError(
                f"{slots.shape[1]} slots in all frames, but input_len leaves place for {self.num_slots} beside the "
                "text: set it to (max_n_objects + 1) * n_sample_frames + max_question_len + max_choice_len"
            )
        # The mark of slots, (0, 1).
        slots = self.vision_in_proj(F.pad(F.pad(slots, (0, 1)), (0, 1), value=1.0))
        slots = slots + self._positions(1, 1 + self.num_slots)
        descriptive = torch.arange(len(batch["cls_video_emb"]), device=slots.device)
        return slots[torch.cat([descriptive, len(descriptive) + batch["mc_flag"].long()])]

    def _positions(self, begin: int, end: int | None = None) -> Float[Tensor, "1 _ D"]:
        return self.transformer_encoder.pos_embedding[:, begin:end]


def _head(d_model: int, hidden_size: int, num_logits: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(d_model, hidden_size), nn.ReLU(), nn.Linear(hidden_size, num_logits))


class CLEVRERAloe(nn.Module):
    """Aloe for CLEVRER's questions.

    `input_len` is the number of slots of all frames and of words, with padding; tokens have (`input_dim` + 2) *
    `num_heads` features, `vision_dim` is the size of a slot. With `question_only` it sees no slots: what such a model
    knows, the questions give away. Raises ValueError for sizes that do not fit together.
    """

    def __init__(
        self,
        input_len: int = 207,
        input_dim: int = 16,
        pos_enc: str = "learnable",
        num_layers: int = 12,
        num_heads: int = 8,
        ffn_dim: int = 512,
        norm_first: bool = True,
        cls_mlp_size: int = 128,
        max_question_len: int = 20,
        max_choice_len: int = 12,
        question_vocab_size: int = NUM_WORDS,
        answer_vocab_size: int = NUM_ANSWERS,
        vision_dim: int = 128,
        question_only: bool = False,
        cls_answer_loss_w: float = 1.0,
        mc_answer_loss_w: float = 1.0,
        dropout: float = 0.1,
    ):
        super().__init__()
        if pos_enc != "learnable":
            raise ValueError(f"pos_enc {pos_enc!r} is not 'learnable', the one kind there is")
        if input_len <= max_question_len + max_choice_len:
            raise ValueError(
                f"input_len={input_len} leaves no place for slots beside {max_question_len} + {max_choice_len} words"
            )
        self.cls_answer_loss_w = cls_answer_loss_w
        self.mc_answer_loss_w = mc_answer_loss_w
        self.transformer_model = AloeTransformer(
            input_len=input_len,
            input_dim=input_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            ffn_dim=ffn_dim,
            norm_first=norm_first,
            cls_mlp_size=cls_mlp_size,
            max_question_len=max_question_len,
            max_choice_len=max_choice_len,
            question_vocab_size=question_vocab_size,
            answer_vocab_size=answer_vocab_size,
            vision_dim=vision_dim,
            question_only=question_only,
            dropout=dropout,
        )

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Weighted sum of the terms for a batch of core.data.vqa.ClevrerQuestions.

        Terms: `cls_answer_loss`, the cross-entropy of descriptive answers, and `mc_answer_loss`, that of choices being
        correct, each a mean over its rows (in training: of all processes); 0 without any.
        """
        losses = answer_losses(*self.answer(batch), batch)
        means = global_means(*losses) if self.training else [value.sum() / max(1, len(value)) for value in losses]
        terms = dict(zip(("cls_answer_loss", "mc_answer_loss"), means))
        return {"loss": self.cls_answer_loss_w * means[0] + self.mc_answer_loss_w * means[1], **terms}

    def answer(self, batch: Batch) -> tuple[Float[Tensor, "Q1 A"], Float[Tensor, " R"]]:
        """Logits of every answer to the descriptive questions, and of every choice to be correct. Always float32."""
        descriptive, choices = self.transformer_model(batch)
        return descriptive.float(), choices.float()


def answer_losses(
    descriptive: Float[Tensor, "Q1 A"], choices: Float[Tensor, " R"], batch: Batch
) -> tuple[Float[Tensor, " Q1"], Float[Tensor, " R"]]:
    """Of every descriptive question, and of every choice."""
    of_choices = F.binary_cross_entropy_with_logits(choices, batch["mc_label"].float(), reduction="none")
    return F.cross_entropy(descriptive, batch["cls_label"], reduction="none"), of_choices
