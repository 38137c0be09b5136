"""Training ALIGNN on formation energies; `python -m crysmetrics.features.alignn.training`."""
