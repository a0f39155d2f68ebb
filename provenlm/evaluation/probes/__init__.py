"""Define the probes: each measures one property of a trained model."""
