"""Known structures as proposals for a composition: `crysgen.retrieval.propose` is the door."""
