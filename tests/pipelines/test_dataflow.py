import importlib.util
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest

from beam_volumes.destinations import Destination
from beam_volumes.precomputed.info import Json
from beam_volumes.runs import Claim
from pipelines import downsample, export, mesh
from pipelines.beam_options import beam_options, is_local, workers_at_most
from pipelines.options import parse
from pipelines.running import Setting
from tests.pipelines.conftest import write_source
from transforms.pool import Execution

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("apitools") is None, reason="DataflowRunner needs the extra: pip install -e '.[gcp]'"
)

# A dry run builds the job as it would be sent, and sends nothing. Names of buckets must be legal: where one is not,
# Beam asks Google Cloud for a bucket of its own.
DATAFLOW = [
    "--runner=DataflowRunner",
    "--dry_run=True",
    "--project=my-project",
    "--region=us-central1",
    "--temp_location=gs://my-bucket/temp",
    "--staging_location=gs://my-bucket/staging",
    "--machine_type=n1-standard-4",
    "--max_num_workers=50",
    "--sdk_container_image=us-central1-docker.pkg.dev/my-project/beam-volumes/export:tag",
]


@pytest.fixture(autouse=True)
def empty_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find nothing at any destination, without asking Google Cloud."""

    def find(destination: Destination, identity: Json, *, scratch: str | None, **_: bool) -> Claim:
        return Claim.of(destination, identity, "new", scratch)

    for pipeline in ("export", "downsample", "meshing"):
        monkeypatch.setattr(f"pipelines.{pipeline}.inspect_destination", find)


def proto_of(size: str, *more: str) -> beam.portability.api.beam_runner_api_pb2.Pipeline:
    """Build the export of a made-up volume for Dataflow; return its graph."""
    return built(export, f"--src=made://neurons?size={size}", f"--dst=gs://my-bucket/{size}", *more)


def built(pipeline: Any, *options: str) -> beam.portability.api.beam_runner_api_pb2.Pipeline:
    config, rest = parse(pipeline.Config, [*options, *DATAFLOW])
    options = beam_options(rest)
    assert not is_local(options)
    assert workers_at_most(options) == 200
    job = pipeline.plan(config, Setting(local=False, workers=workers_at_most(options), inline_bytes=2**20))
    graph = beam.Pipeline(options=options)
    job.build(graph, Execution(1, None))
    assert graph.run().state == "DONE"
    return graph.runner.proto_pipeline


def steps_of(proto: Any) -> set[str]:
    names = {transform.unique_name for transform in proto.components.transforms.values()}
    return {name for name in names if "/" not in name and not name.startswith("ref_")}


def test_the_whole_export_builds_for_dataflow() -> None:
    proto = proto_of("256,256,64")
    assert steps_of(proto) == {
        "List regions",
        "Render regions",
        "Parcels of all levels",
        "Counts of all levels",
        "Write shards",
        "Finish",
    }
    images = [environment.payload for environment in proto.components.environments.values()]
    assert images
    assert all(b"/beam-volumes/export:tag" in image for image in images)


def test_the_graph_is_small_however_large_the_volume_is() -> None:
    small = proto_of("256,256,64").ByteSize()
    large = proto_of("100000,100000,10000").ByteSize()
    # A thousand ranges at most, however many regions there are.
    assert large < small + 30_000


def levels(count: int) -> set[str]:
    return {f"Make mips, level {level}" for level in range(1, count + 1)}


def test_the_levels_of_an_export_with_mips_are_steps() -> None:
    plain = steps_of(proto_of("20000,20000,2000"))
    proto = proto_of("20000,20000,2000", "--num_mips=9", "--encoding=raw")
    assert steps_of(proto) == plain | levels(3)
    larger = proto_of("200000,200000,20000", "--num_mips=9", "--encoding=raw")
    assert steps_of(larger) == plain | levels(4)
    assert larger.ByteSize() < 1.5 * proto.ByteSize()


def test_a_downsampling_builds_for_dataflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer stands on this machine in truth."""
    url = f"file://{tmp_path}/layer"
    write_source(url, np.ones((100, 100, 40, 1), np.uint32), layer_type="segmentation", chunk_size=(16, 16, 16))
    monkeypatch.setattr("pipelines.running.check_for_workers", lambda *_: None)
    options = ["--num_mips=4", "--memory_target=500000", "--encoding=raw"]
    steps = steps_of(built(downsample, f"--layer={url}", *options))
    assert steps > {"List regions", "Render regions", *levels(2), "Write shards", "Finish"}
    assert not (tmp_path / "layer/.beam_volumes").exists()


def test_a_meshing_run_builds_for_dataflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer stands on this machine in truth."""
    url = f"file://{tmp_path}/layer"
    write_source(url, np.ones((100, 100, 40, 1), np.uint32), layer_type="segmentation", chunk_size=(16, 16, 16))
    monkeypatch.setattr("pipelines.running.check_for_workers", lambda *_: None)
    proto = built(mesh, f"--layer={url}", "--num_lods=4", "--cell_size=16,16,16", "--segment_properties")
    joined = {f"{what}, level {level}" for what in ("Group by cell", "Join cells") for level in (1, 2, 3)}
    assert steps_of(proto) > {"Choose labels", "Forge cells", "Write meshes", "Finish"} | joined
    assert not (tmp_path / "layer/.beam_volumes").exists()
