"""Check sequences of tokens against the grammar of their tokenizer.

The grammar says which class of tokens may follow which; besides, time runs on.
"""

from collections.abc import Mapping, Sequence

PITCH_CLASSES = ("Pitch", "NoteOn")


def grammar_errors(tokens: Sequence[str], successors: Mapping[str, frozenset[str]]) -> int:
    """Count the tokens that may not follow the token before them.

    `successors` gives the classes that may follow a class. Errors are also a position that does not lie after the previous one of its
    bar, and a pitch that occurs twice at one position.
    """
    errors, position = 0, -1
    pitches: set[str] = set()
    previous = ""
    for token in tokens:
        name, _, value = token.partition("_")
        is_error = bool(previous) and name not in successors.get(previous, frozenset())
        if name == "Bar":
            position = -1
        elif name == "Position":
            is_error = is_error or int(value) <= position
            position = int(value)
        if name in ("Bar", "Position", "TimeShift"):
            pitches = set()
        elif name in PITCH_CLASSES:
            is_error = is_error or value in pitches
            pitches.add(value)
        errors += is_error
        previous = name
    return errors
