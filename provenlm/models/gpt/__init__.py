"""Provide a dense decoder: Llama (arXiv 2302.13971) or GPT-2."""
