"""Sources that several modules read."""

import gzip
from pathlib import Path

import crackle
import numpy as np
import numpy.typing as npt
import pytest
from cloudvolume import CloudVolume

SAMPLE = Path(__file__).parents[3] / "shared/data/pinky40_512.ckl.gz"


@pytest.fixture(scope="session")
def sample() -> npt.NDArray[np.uint32]:
    """A real segmentation, 512 x 512 x 512, XYZ."""
    if not SAMPLE.exists():
        pytest.skip(f"no sample at {SAMPLE}")
    return np.asfortranarray(crackle.decompress(gzip.decompress(SAMPLE.read_bytes())))


@pytest.fixture(scope="session")
def sample_url(sample: npt.NDArray[np.uint32], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The sample as a Precomputed volume with an offset and a mesh."""
    url = f"file://{tmp_path_factory.mktemp('sample')}"
    info = CloudVolume.create_new_info(
        1, "segmentation", "uint32", "compressed_segmentation", (16, 16, 40), (-40, 8, 3), sample.shape, mesh="mesh"
    )
    volume = CloudVolume(url, info=info, progress=False, compress=False)
    volume.commit_info()
    volume[:] = sample[..., np.newaxis]
    return url
