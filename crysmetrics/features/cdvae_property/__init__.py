"""The property networks of CDVAE, from which every published energy EMD and success rate comes."""
