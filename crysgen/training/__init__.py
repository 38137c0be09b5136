"""Training of generators: the run, its settings, data and optimiser."""
