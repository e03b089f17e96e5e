"""PTransforms: the graph around the algorithms of beam_volumes."""
