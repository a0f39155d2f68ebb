"""Provide symbolic music: scores as MIDI files, tokenized by MidiTok."""
