"""CUDA graphs: work of static shapes recorded once and replayed, without Python in between."""

from crysgen.graphs.captured import Captured
from crysgen.graphs.trees import map_tensors, part_of, tensors_of

__all__ = ["Captured", "map_tensors", "part_of", "tensors_of"]
