"""Training of what `crysgen.retrieval.scoring` reads; no proposal needs it."""
