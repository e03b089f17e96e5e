"""The hash of labels, beside CloudVolume's."""

import numpy as np
from cloudvolume.datasource.precomputed.sharding import ShardingSpecification

from beam_volumes.precomputed.murmur import murmurhash3
from beam_volumes.precomputed.sharding import ShardingSpec, sharding_of_labels


def test_hash_of_cloudvolume() -> None:
    ids = np.random.default_rng(1).integers(0, 2**64, 500, dtype=np.uint64)
    ids[:100] = np.arange(100)
    theirs = ShardingSpecification("neuroglancer_uint64_sharded_v1", 0, "murmurhash3_x86_128", 5, 7, "gzip", "raw")
    ours = ShardingSpec(0, 5, 7, hash="murmurhash3_x86_128")
    for label, hashed in zip(ids.tolist(), murmurhash3(ids).tolist(), strict=True):
        place = theirs.compute_shard_location(label)
        assert (hashed & 31, hashed >> 5 & 127) == (place.minishard_number, int(place.shard_number, 16))
        assert (ours.minishard_number(label), ours.shard_number(label)) == (hashed & 31, hashed >> 5 & 127)


def test_shards_hold_a_thousand_labels_or_fewer() -> None:
    bits = {n: sharding_of_labels(n) for n in (0, 1, 64, 65, 1024, 1025, 2159, 10**8)}
    assert {n: (s.minishard_bits, s.shard_bits) for n, s in bits.items()} == {
        0: (0, 0),
        1: (0, 0),
        64: (0, 0),
        65: (1, 0),
        1024: (4, 0),
        1025: (4, 1),
        2159: (4, 2),
        10**8: (4, 17),
    }
