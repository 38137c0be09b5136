"""Chemical formulas, the sizes of their cells, and the compositions of chemical systems."""
