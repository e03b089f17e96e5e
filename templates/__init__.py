"""Dataflow Flex Templates: the container image, and what is generated from each pipeline's Config."""
