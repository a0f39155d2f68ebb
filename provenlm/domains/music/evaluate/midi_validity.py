"""Check the bytes of a Standard MIDI File against the specification.

It is RP-001 (1996). The library that wrote the file is not used.
"""

import struct

HEADER, TRACK = b"MThd", b"MTrk"
END_OF_TRACK = 0x2F
NUM_DATA_BYTES = {0x8: 2, 0x9: 2, 0xA: 2, 0xB: 2, 0xC: 1, 0xD: 1, 0xE: 2}  # of channel messages, by the upper half of the status


def midi_error(content: bytes) -> str | None:
    """Return what is wrong with a MIDI file, or None.

    It checks chunks, lengths, events, and an end for every note.
    """
    try:
        length, file_format, num_tracks, division = struct.unpack(">4xIHHH", content[:14])
    except struct.error:
        return f"the header must have 14 bytes, got {len(content)}"
    if content[:4] != HEADER or length != 6 or file_format not in (0, 1) or not division:
        return f"the header must be MThd of format 0 or 1 with a division, got {content[:14].hex()}"
    position = 14
    for number in range(num_tracks):
        if content[position : position + 4] != TRACK:
            return f"track {number} must begin with MTrk, got {content[position : position + 4]!r}"
        size = int.from_bytes(content[position + 4 : position + 8], "big")
        track = content[position + 8 : position + 8 + size]
        if len(track) != size:
            return f"track {number} must have {size} bytes, got {len(track)}"
        try:
            error = _track_error(track)
        except IndexError:
            error = "its last event is cut"
        if error:
            return f"track {number}: {error}"
        position += 8 + size
    return None if position == len(content) else f"the file must end after its tracks, got {len(content) - position} more bytes"


def _track_error(track: bytes) -> str | None:
    """Return what is wrong with the events of a track. IndexError if the last event is cut."""
    position, status = 0, 0
    sounding: dict[tuple[int, int], int] = {}
    while True:
        _, position = _variable_length(track, position)
        if track[position] & 0x80:
            status, position = track[position], position + 1
        if status == 0xFF:
            kind = track[position]
            size, position = _variable_length(track, position + 1)
            position += size
            if kind == END_OF_TRACK:
                open_notes = sum(count > 0 for count in sounding.values())
                if open_notes:
                    return f"{open_notes} notes have no end"
                return None if position == len(track) else "events follow its end"
        elif status in (0xF0, 0xF7):
            size, position = _variable_length(track, position)
            position += size
        elif status >> 4 in NUM_DATA_BYTES:
            data = [track[position + offset] for offset in range(NUM_DATA_BYTES[status >> 4])]
            if max(data) > 127:
                return f"data bytes must be below 128, got {max(data)}"
            position += len(data)
            if status >> 4 in (0x8, 0x9):
                key = (status & 0xF, data[0])
                begins = status >> 4 == 0x9 and data[1] > 0
                sounding[key] = sounding.get(key, 0) + (1 if begins else -1)
                if sounding[key] < 0:
                    return f"pitch {data[0]} ends without a beginning"
        else:
            return f"status {status:#x} is unknown"


def _variable_length(track: bytes, position: int) -> tuple[int, int]:
    """Read a number of variable length; return it and the position after it."""
    value = 0
    for offset in range(4):
        byte = track[position + offset]
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            return value, position + offset + 1
    raise IndexError("a number of variable length has more than four bytes")
