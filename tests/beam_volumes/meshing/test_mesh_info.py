from beam_volumes.geometry import Box
from beam_volumes.meshing.mesh_info import fragments_info, multiresolution_info
from beam_volumes.precomputed.sharding import sharding_of_labels
from beam_volumes.spatial_index.files import IndexGrid

INDEX = IndexGrid.of_shape(Box((0, 0, 0), (512, 512, 512)), (64, 64, 64), (16, 16, 40)).info


def test_of_fragments() -> None:
    # As Igneous writes it, in this order, but for the overlap.
    assert list(fragments_info(0, (64, 64, 64), INDEX).items()) == [
        ("@type", "neuroglancer_legacy_mesh"),
        ("mip", 0),
        ("chunk_size", [64, 64, 64]),
        ("overlap", {"low": 1, "high": 0}),
        ("spatial_index", {"resolution": [16, 16, 40], "chunk_size": [1024, 1024, 2560]}),
    ]
    assert "spatial_index" not in fragments_info(2, (64, 64, 64))


def test_of_meshes_in_many_resolutions() -> None:
    sharding = sharding_of_labels(100_000)
    assert multiresolution_info(3, 16, sharding, INDEX, "segment_properties") == {
        "@type": "neuroglancer_multilod_draco",
        "vertex_quantization_bits": 16,
        "transform": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0],
        "lod_scale_multiplier": 1,
        "mip": 3,
        "spatial_index": INDEX,
        "sharding": sharding.to_info(),
        "segment_properties": "segment_properties",
    }
    assert set(multiresolution_info(0, 10, None)) == {
        "@type",
        "vertex_quantization_bits",
        "transform",
        "lod_scale_multiplier",
        "mip",
    }
