"""Columns of `samples.csv`, and what each holds."""

from __future__ import annotations

COLUMNS: dict[str, str] = {
    "file": "name of the structure's file in the folder",
    "formula": "reduced formula",
    "num_atoms": "atoms in the cell of the file",
    "space_group": "number of the space group found within --tolerance, or of the one given",
    "space_group_tight": "number of the space group found within 0.001 Å",
    "space_group_loose": "number of the space group found within 0.1 Å",
    "density": "in g/cm³",
    "volume_per_atom": "in Å³",
    "min_distance": "shortest distance between atoms or their images, in Å",
    "predicted_formation_energy_per_atom": "by ALIGNN, for the structure without "
    "relaxation, in eV/atom",
    "status": "predicted, or known with its id and energy above the hull where published",
    "prototype": "name of the structure type that matches, such as B1, rock salt",
    "nearest_known": "id of the known structure of the formula, or else of its type and space "
    "group, that is nearest",
    "nearest_known_distance": "its distance in Å: largest difference of average minimum "
    "distances (AMD)",
    "method": "how it was made: retrieval, decoration, merging, diffusion, wyckoff or refine",
    "prototype_id": "id of the known structure that it was made from",
    "score": "how likely it is the right one among the candidates of its formula, 0 to 1",
    "probability": "calibrated probability of being the right structure; empty if all are samples",
    "rank": "place among the candidates of its formula, 1 for the likeliest",
    "ref_id": "with --compositions STRUCTURES: the structure whose composition was asked for",
    "seed": "seed of its random numbers",
    "steps": "calls of the model that sampling took; 0 for known structures and their variants",
    "relaxed_energy": "with --relax, in eV/atom; with several potentials, the mean above the "
    "lowest",
    "relaxed_above_lowest": "the same above the lowest of the formula's structures, in eV/atom",
    "relaxed_disagreement": "difference of potentials in the energy above the lowest, in eV/atom",
    "relaxation": "how far it went: to the end, stopped early as hopeless, not to the end, failed",
    "potential": "name of the potential that relaxed it",
}
"""Names in the order of the table, and what stands in each, for --help and README."""
