"""A made-up segmentation that looks like neurons: neurites as tubes of varying width that fill all space.

Each neurite is a random walk of nodes; a voxel belongs to the neurite of the node nearest to it, the node's width
taken off (a power diagram). Where two neurites are about as near, a membrane of 0 stands between them.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from beam_volumes.geometry import Vec

_VOXELS_PER_NEURITE = 12_000
_STEP = 9.0
"""Voxels between the nodes of a neurite."""

_CELL = (16, 16, 8)
_MEMBRANE = 1.6
"""Voxels."""

_ANISOTROPY = (1.0, 1.0, 2.5)
"""A voxel is longer along z, as in serial sections."""

Floats = npt.NDArray[np.float32]


class _Nodes(NamedTuple):
    places: Floats
    widths: Floats
    labels: npt.NDArray[np.int64]


def make_neurons(shape: Vec, seed: int = 0) -> npt.NDArray[np.uint64]:
    """Return labels 1, 2, ... with membranes of 0, uint64, XYZ, Fortran order; the same for the same arguments."""
    nodes = _walk(shape, np.random.default_rng(seed))
    labels = np.zeros(shape, np.uint64, order="F")
    for start in itertools.product(*(range(0, n, c) for n, c in zip(shape, _CELL, strict=True))):
        stop = [min(s + c, n) for s, c, n in zip(start, _CELL, shape, strict=True)]
        cell = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        labels[cell] = _label_cell(nodes, np.array(start), np.array(stop))
    _, ranks = np.unique(labels, return_inverse=True)
    # Without any membrane the smallest label would become 0.
    return np.asfortranarray(ranks.reshape(shape).astype(np.uint64) + np.uint64(labels.min() > 0))


def make_image(labels: npt.NDArray[np.uint64], seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return what a microscope might see of `labels`: dark membranes, each neurite of its own grey, and noise; XYZ."""
    random = np.random.default_rng(seed)
    greys = random.integers(130, 200, int(labels.max()) + 1)
    greys[0] = 50
    image = greys[labels] + random.normal(0, 12, labels.shape)
    return np.asfortranarray(np.clip(image, 0, 255).astype(np.uint8))


def _walk(shape: Vec, random: np.random.Generator) -> _Nodes:
    """Return the nodes of all neurites; places are in units of an x voxel."""
    extent = np.array(shape) * _ANISOTROPY
    count = max(2, round(float(np.prod(shape)) / _VOXELS_PER_NEURITE))
    steps = max(8, round(float(extent.max()) / _STEP))
    turns = random.normal(0, 0.35, (steps, count, 3))
    turns[0] = random.normal(0, 1, (count, 3))
    directions = np.cumsum(turns, axis=0)
    directions /= np.linalg.norm(directions, axis=2, keepdims=True)
    # They start anywhere in a margin around the volume, so that its borders are as full as its middle.
    start = random.uniform(-0.2, 1.2, (count, 3)) * extent
    places = start + np.cumsum(directions * _STEP, axis=0)
    thick = random.gamma(2.0, 2.0, count)
    widths = thick * np.exp(np.cumsum(random.normal(0, 0.1, (steps, count)), axis=0))
    inside: npt.NDArray[np.bool_] = np.asarray(((places > -30) & (places < extent + 30)).all(axis=2))
    if not inside.any():
        inside[:, 0] = True
    labels = np.broadcast_to(np.arange(1, count + 1), (steps, count))
    return _Nodes(places[inside].astype(np.float32), np.minimum(widths, 12)[inside].astype(np.float32), labels[inside])


def _label_cell(nodes: _Nodes, start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Label the voxels of one small box."""
    scale = np.array(_ANISOTROPY, np.float32)
    low, high = start * scale, (stop - 1) * scale
    reach = np.linalg.norm(nodes.places - (low + high) / 2, axis=1) - nodes.widths
    diagonal = float(np.linalg.norm(high - low))
    near = np.flatnonzero(reach <= reach.min() + diagonal + _MEMBRANE)
    axes = [np.arange(a, b, dtype=np.float32) * s for a, b, s in zip(start, stop, scale, strict=True)]
    x, y, z = ((axis - places[:, None]) ** 2 for axis, places in zip(axes, nodes.places[near].T, strict=True))
    distances = np.sqrt(x[:, :, None, None] + y[:, None, :, None] + z[:, None, None, :])
    distances -= nodes.widths[near, None, None, None]
    owners = nodes.labels[near]
    nearest = distances.argmin(axis=0)
    owner, best = owners[nearest], distances.min(axis=0)
    distances[owners[:, None, None, None] == owner] = np.inf
    return np.where(distances.min(axis=0) - best < _MEMBRANE, 0, owner).astype(np.uint64)
