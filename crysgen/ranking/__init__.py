"""Order of the candidates of one composition: equal structures merged, the likeliest first."""
