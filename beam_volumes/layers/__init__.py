"""Layers: volumes read and written as torch tensors, at any resolution, with processors on the way.

torch is imported when a layer is read or written, not before.
"""

from beam_volumes.builder import register
from beam_volumes.geometry import BBox3D, BBoxStrider, Vec3D, VolumetricIndex
from beam_volumes.layers.backend import VolumetricBackend
from beam_volumes.layers.build import build_cv_layer, build_ts_layer
from beam_volumes.layers.data_processors import DataResolutionInterpolator, InvertProcessor, ROIMaskProcessor
from beam_volumes.layers.dataset import LayerDataset, SampleIndexer, VolumetricStridedIndexer
from beam_volumes.layers.index_processors import (
    VolumetricIndexOverrider,
    VolumetricIndexPadder,
    VolumetricIndexScaler,
    VolumetricIndexTranslator,
)
from beam_volumes.layers.indexing import UserIndex, VolumetricFrontend
from beam_volumes.layers.interpolation import interpolate
from beam_volumes.layers.layer import VolumetricLayer
from beam_volumes.layers.layer_set import VolumetricLayerSet, build_layer_set, build_volumetric_layer_set
from beam_volumes.layers.processors import DataProcessor, IndexProcessor, JointIndexDataProcessor
from beam_volumes.layers.tensors import tensor_type

__all__ = [
    "DataProcessor",
    "DataResolutionInterpolator",
    "IndexProcessor",
    "InvertProcessor",
    "JointIndexDataProcessor",
    "LayerDataset",
    "ROIMaskProcessor",
    "SampleIndexer",
    "UserIndex",
    "VolumetricBackend",
    "VolumetricFrontend",
    "VolumetricIndexOverrider",
    "VolumetricIndexPadder",
    "VolumetricIndexScaler",
    "VolumetricIndexTranslator",
    "VolumetricLayer",
    "VolumetricLayerSet",
    "VolumetricStridedIndexer",
    "build_cv_layer",
    "build_layer_set",
    "build_ts_layer",
    "build_volumetric_layer_set",
    "interpolate",
    "tensor_type",
]

for _class in (BBox3D, BBoxStrider, Vec3D, VolumetricIndex):
    register(_class.__name__)(_class)
