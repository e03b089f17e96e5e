"""Meshes of labels: surfaces of cells, levels of detail made of them bottom-up, and the formats they are stored in."""
