"""Provide a variational autoencoder of sequences with one latent a bar, and its adversarial variant (VAE-GAN)."""
