"""Plant models that predict by a rule, and build their evaluation contexts on procedural pieces."""

import torch
from contexts import make_untrained_context
from torch import nn

from tests.domains.music.eval_contexts import TOKENIZER, corpus, tokenized_pieces

NUM_PIECES, NUM_VAL = 24, 8
PIECES = tokenized_pieces(NUM_PIECES)
TOKENS = corpus(NUM_PIECES, NUM_VAL)


class PlantedModel(nn.Module):
    """Predict by a rule: a table of the next token for each position, or for each token."""

    def __init__(self, by_position=None, by_token=None, strength=20.0):
        super().__init__()
        self.by_position, self.by_token, self.strength = by_position, by_token, strength
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, tokens_BT):
        next_BT = (
            self.by_token[tokens_BT] if self.by_token is not None else self.by_position[: tokens_BT.shape[1]].expand_as(tokens_BT)
        )
        return self.strength * nn.functional.one_hot(next_BT, TOKENIZER.vocab_size).float()


def make_context(model):
    return make_untrained_context(model, TOKENIZER, TOKENS, 256)


def memoriser():
    """Play a training piece whatever the prompt."""
    return PlantedModel(by_position=torch.tensor(PIECES[NUM_VAL][1:258]))


def collapsed():
    """Repeat one token for ever."""
    return PlantedModel(by_token=torch.full((TOKENIZER.vocab_size,), int(TOKENIZER.token_classes["Pitch"][40])))


def uniform():
    return PlantedModel(by_token=torch.zeros(TOKENIZER.vocab_size, dtype=torch.int64), strength=0.0)
