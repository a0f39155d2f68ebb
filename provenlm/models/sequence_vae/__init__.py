"""Provide a VAE of sequences with one latent a bar, and a VAE-GAN."""
