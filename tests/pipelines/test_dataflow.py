import importlib.util

import apache_beam as beam
import pytest

from beam_volumes.destinations import Destination
from beam_volumes.precomputed.info import Json
from beam_volumes.runs import Claim
from pipelines.beam_options import beam_options, is_local, workers_at_most
from pipelines.export import Config, plan
from pipelines.options import parse
from pipelines.running import Setting
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

    monkeypatch.setattr("pipelines.export.inspect_destination", find)


def proto_of(size: str) -> beam.portability.api.beam_runner_api_pb2.Pipeline:
    """Build the export of a made-up volume for Dataflow; return its graph."""
    argv = [f"--src=made://neurons?size={size}", f"--dst=gs://my-bucket/{size}", *DATAFLOW]
    config, rest = parse(Config, argv)
    options = beam_options(rest)
    assert not is_local(options)
    assert workers_at_most(options) == 200
    job = plan(config, Setting(local=False, workers=workers_at_most(options), inline_bytes=2**20))
    pipeline = beam.Pipeline(options=options)
    job.build(pipeline, Execution(1, None))
    assert pipeline.run().state == "DONE"
    return pipeline.runner.proto_pipeline


def test_the_whole_export_builds_for_dataflow() -> None:
    proto = proto_of("256,256,64")
    names = {transform.unique_name for transform in proto.components.transforms.values()}
    assert {name for name in names if "/" not in name and not name.startswith("ref_")} == {
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
