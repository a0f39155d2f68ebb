"""What the benchmarks share: ways timed beside each other, and peers built from our own weights."""
