"""ALIGNN: its graphs and network, the extractor of features and energies, and its training."""
