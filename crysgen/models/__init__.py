"""Generative models: a process that noises and denoises crystals, over a network."""
