"""Flatten compound tokens to one stream of ids.

A compound holds one id of each of several vocabularies.

Octuple (Zeng et al. 2021) has a compound for each note, CPWord (Hsiao et al. 2021) one for each bar, position and note. The ids of a
vocabulary follow those of the vocabulary before it; special tokens exist once, and `Ignore` tokens, which fill compounds of CPWord, are
left out. A compound begins with a token of the first vocabulary of STREAM_ORDER.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from provenlm.core.errors import DataError

STREAM_ORDER = ("Family", "Bar", "Position", "TimeSig", "Tempo", "Program", "Pitch", "Velocity", "Duration")
IGNORE_TOKEN = "Ignore_None"
FAMILY_TOKENS = {"Bar": "Family_Metric", "Position": "Family_Metric", "Pitch": "Family_Note"}
COMPOUNDS_WITH_FAMILY = (("Bar", "TimeSig"), ("Position", "Tempo"), ("Program", "Pitch", "Velocity", "Duration"))


@dataclass(frozen=True)
class CompoundCodec:
    """Map compounds to a stream of ids and back.

    tokens: name of each id. local_ids: of each id, its slot of a compound of MidiTok and its id there. ignored: id of `Ignore` by
    slot. kinds: the classes of each kind of compound, in the order of the stream.
    """

    tokens: tuple[str, ...]
    local_ids: tuple[tuple[int, int], ...]
    ignored: Mapping[int, int]
    kinds: tuple[tuple[str, ...], ...]

    @classmethod
    def create(cls, vocabularies: Sequence[Mapping[str, int]], special_tokens: Sequence[str]) -> "CompoundCodec":
        """Join the vocabularies of MidiTok to one.

        Raises DataError for a class of tokens that STREAM_ORDER lacks.
        """
        tokens = list(special_tokens)
        local_ids = [(0, vocabularies[0][token]) for token in tokens]
        slot_tokens = [
            {token: local_id for token, local_id in vocabulary.items() if token not in tokens and token != IGNORE_TOKEN}
            for vocabulary in vocabularies
        ]
        classes = [list(dict.fromkeys(map(class_of, group))) for group in slot_tokens]
        if unknown := [name for names in classes for name in names if name not in STREAM_ORDER]:
            raise DataError(f"compound tokens must be of the classes {', '.join(STREAM_ORDER)}, got {unknown[0]}")
        for slot in sorted(range(len(vocabularies)), key=lambda slot: STREAM_ORDER.index(classes[slot][0])):
            tokens += slot_tokens[slot]
            local_ids += [(slot, local_id) for local_id in slot_tokens[slot].values()]
        present = sorted((name for names in classes for name in names), key=STREAM_ORDER.index)
        kinds = [tuple(present)]
        if present[0] == "Family":
            kinds = [("Family", *(name for name in kind if name in present)) for kind in COMPOUNDS_WITH_FAMILY]
        ignored = {slot: ids[IGNORE_TOKEN] for slot, ids in enumerate(vocabularies) if IGNORE_TOKEN in ids}
        return cls(tuple(tokens), tuple(local_ids), ignored, tuple(kinds))

    @property
    def successors(self) -> Mapping[str, frozenset[str]]:
        """Return the classes that may follow each class.

        That is the next one of its compound, or the first one after the last.
        """
        following: dict[str, set[str]] = {}
        for kind in self.kinds:
            for first, second in pairwise([*kind, kind[0]]):
                following.setdefault(first, set()).add(second)
        return {name: frozenset(names) for name, names in following.items()}

    def flatten(self, compounds: Iterable[Sequence[int]]) -> list[int]:
        """Return the stream of compounds of MidiTok."""
        stream_ids = {local: token_id for token_id, local in enumerate(self.local_ids)}
        num_special = next(number for number, token in enumerate(self.tokens) if class_of(token) in STREAM_ORDER)
        slots = list(dict.fromkeys(slot for slot, _ in self.local_ids[num_special:]))
        return [
            stream_ids[slot, compound[slot]] for compound in compounds for slot in slots if compound[slot] != self.ignored.get(slot)
        ]

    def unflatten(self, ids: Iterable[int]) -> list[list[int]]:
        """Return the complete compounds of a stream; what forms none is left out."""
        num_slots = 1 + max(slot for slot, _ in self.local_ids)
        compounds: list[list[int]] = []
        for part in self._parts(ids):
            names = [class_of(self.tokens[token_id]) for token_id in part]
            if tuple(names) not in self.kinds:
                continue
            family = next((FAMILY_TOKENS[name] for name in names if name in FAMILY_TOKENS), "")
            if names[0] == "Family" and self.tokens[part[0]] != family:
                continue
            compound = dict(self.ignored) | dict(self.local_ids[token_id] for token_id in part)
            compounds.append([compound[slot] for slot in range(num_slots)])
        return compounds

    def _parts(self, ids: Iterable[int]) -> Iterator[list[int]]:
        """Cut a stream before each token of the first class."""
        part: list[int] = []
        for token_id in ids:
            if class_of(self.tokens[token_id]) == self.kinds[0][0] and part:
                yield part
                part = []
            part.append(token_id)
        yield part


def class_of(token: str) -> str:
    """Return the class of a token, such as `Pitch` of `Pitch_60`."""
    return token.split("_", 1)[0]
