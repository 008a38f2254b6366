"""A page about trained runs of any paper: curves, scores, pictures, configurations."""
