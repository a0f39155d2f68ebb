"""Draw and play scores: piano rolls, synthesizers and audio files."""
