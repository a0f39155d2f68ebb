"""Generate continuations with any causal model."""
