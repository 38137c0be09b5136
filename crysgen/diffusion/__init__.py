"""Diffusion of cells and positions: schedules, spaces of cells, positions on the torus, noise."""
