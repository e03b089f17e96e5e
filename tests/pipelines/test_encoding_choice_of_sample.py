"""What `--encoding=auto` takes for a real segmentation is what would be smallest for all of it."""

import numpy as np
import numpy.typing as npt

from beam_volumes.codecs import Array, compress, encode_chunk
from beam_volumes.downsampling import Downsampler
from beam_volumes.encoding_choice import AUTO, SampledVolume, candidates_for, choose_encodings
from beam_volumes.geometry import Box, Grid, Vec

CHUNK: Vec = (64, 64, 64)
FACTORS = [(1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)]


def test_the_choice_for_each_mip_is_the_smallest_over_all_of_it(sample: npt.NDArray[np.uint32]) -> None:
    array: Array = sample[:, :, 100:356, np.newaxis]
    box = Box((-40, 8, 3), (472, 520, 259))
    volume = SampledVolume(box, "segmentation", "uint32", 1)
    downsampler = Downsampler("mode", "uint32")

    def read(part: Box) -> Array:
        return array[part.slices(box.start)]

    choices = choose_encodings(read, volume, CHUNK, FACTORS, downsampler, "gzip", [AUTO] * len(FACTORS))

    smallest = []
    for tile, voxels in downsampler.mips(downsampler.tile(array, box.start), FACTORS):
        chunks = Grid(tile.box, CHUNK, tile.box.start)
        parts = [voxels[chunks.box(chunks.position(i)).slices(tile.box.start)] for i in range(len(chunks))]
        sizes = {
            encoding: sum(len(compress(encode_chunk(part, encoding), "gzip")) for part in parts)
            for encoding in candidates_for(volume, CHUNK)
        }
        smallest.append(min(sizes, key=lambda encoding: sizes[encoding]))
    assert [choice.encoding for choice in choices] == smallest
    assert len(set(smallest)) > 1
