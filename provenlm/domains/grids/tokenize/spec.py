"""Tokenize puzzles.

Every task is in the training split: what is held out are the test outputs of the reported tasks, which are in no token.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from provenlm.core.interfaces import Augmentation, TokenizeSpec
from provenlm.core.records import Record
from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.domains.grids.tokenize.batch_config import GridBatchConfig, parse_batch_config
from provenlm.domains.grids.tokenize.grid_tokenizer import GridTokenizer, load_grid_tokenizer, train_grid_tokenizer


@dataclass(frozen=True)
class GridsTokenizeConfig:
    """Configure tokenization of puzzles; there are no keys."""


def make_tokenizer(config: GridsTokenizeConfig, read_records: Callable[[], Iterable[Record]]) -> GridTokenizer:
    """Build the tokenizer: colours, separators, and a token for each task."""
    return train_grid_tokenizer(read_records())


def val_fraction(config: GridsTokenizeConfig) -> float:
    """Return 0: solving the reported tasks is what is validated."""
    return 0.0


def sequences(split: DatasetSplit, dataset: TokenDataset, train_config: Any) -> Any:
    """Return pairs of grids for the layout pairs.

    Else None: the standard packings.
    """
    from provenlm.domains.grids.tokenize.grid_batches import grid_sequences  # torch: not for the stage tokenize

    config = parse_batch_config(train_config)
    return grid_sequences(split, dataset, train_config.seq_len, config.in_place) if config.layout == "pairs" else None


def augmentation(dataset: TokenDataset, train_config: Any) -> Augmentation | None:
    """Return the augmentation that `train.batches.augmentation` asks for."""
    from provenlm.domains.grids.tokenize.augmentation import build_augmentation  # torch: not for the stage tokenize

    config = parse_batch_config(train_config)
    if config.augmentation is None or config.layout != "pairs":
        return None
    return build_augmentation(dataset, config.augmentation, train_config.seed)


SPEC = TokenizeSpec(
    GridsTokenizeConfig,
    make_tokenizer,
    load_grid_tokenizer,
    val_fraction,
    batch_config_type=GridBatchConfig,
    sequences=sequences,
    augmentation=augmentation,
)
