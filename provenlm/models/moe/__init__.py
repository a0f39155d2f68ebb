"""Provide a mixture-of-experts decoder like Mixtral (arXiv 2401.04088)."""
