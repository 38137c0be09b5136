"""Known crystals: packed entries, their prototypes, groups of one anonymous formula."""
