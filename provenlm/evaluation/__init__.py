"""Floor 2: a trained net in, figures that could have been bad out."""
