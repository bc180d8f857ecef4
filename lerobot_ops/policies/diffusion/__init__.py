"""Diffusion Policy: actions are what is left when a network has removed noise, step by step."""
