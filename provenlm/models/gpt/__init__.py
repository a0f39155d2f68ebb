"""A dense decoder, in the style of Llama (arXiv 2302.13971) or of GPT-2."""
