"""Functions applied by workers elsewhere, and on volumes in buckets."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, WorkerOptions

from beam_volumes.storage import Folder, gcs
from pipelines import apply
from pipelines.beam_options import beam_options, with_defaults, workers_at_most
from pipelines.options import parse
from pipelines.running import Job, Setting
from tests.beam_volumes.test_storage_gcs import fake_gcs
from tests.pipelines.apply_commands import BOX, SCALE, SRC, layer, new, run, target, write_spec
from tests.pipelines.conftest import check_refusal, tree
from transforms.pool import Execution

on_dataflow = pytest.mark.skipif(
    importlib.util.find_spec("apitools") is None, reason="DataflowRunner needs the extra: pip install -e '.[gcp]'"
)

# A dry run builds the job as it would be sent, and sends nothing.
DATAFLOW = [
    "--runner=DataflowRunner",
    "--dry_run=True",
    "--project=my-project",
    "--region=us-central1",
    "--temp_location=gs://my-bucket/temp",
    "--staging_location=gs://my-bucket/staging",
]
REMOTE = {
    "@type": "mazepa.execute_on_gcp_with_sqs",
    "worker_image": "us-docker.pkg.dev/p/r/image:tag",
    "worker_cluster_name": "cluster",
    "worker_cluster_region": "us-east1",
    "worker_cluster_project": "their-project",
    "worker_resources": {"memory": "18560Mi", "nvidia.com/gpu": "1"},
    "worker_replicas": 10,
    "worker_labels": {"team": "cells"},
    "local_test": False,
}


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of Cloud Storage, in this process."""
    with fake_gcs() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        gcs._client_of_process.cache_clear()
        yield "gs://bucket"
        gcs._client().close()
    gcs._client_of_process.cache_clear()


def planned(spec: Path, *more: str) -> tuple[Job, PipelineOptions]:
    """Plan a run on Dataflow; return it with the options of Beam that it would have."""
    config, rest = parse(apply.Config, [f"--spec={spec}", *DATAFLOW, *more])
    options = beam_options(rest)
    job = apply.plan(config, Setting(local=False, workers=workers_at_most(options), inline_bytes=2**11))
    return job, with_defaults(options, job.beam_defaults)


def steps(job: Job, options: PipelineOptions) -> dict[str, dict[str, str]]:
    """Build a job; return the resource hints of each of its steps that does something."""
    graph = beam.Pipeline(options=options)
    job.build(graph, Execution(1, None))
    assert graph.run().state == "DONE"
    components = graph.runner.proto_pipeline.components
    hints = {
        name: {key.split(":")[-2]: value.decode() for key, value in environment.resource_hints.items()}
        for name, environment in components.environments.items()
    }
    return {
        step.unique_name: hints[step.environment_id]
        for step in components.transforms.values()
        if step.environment_id and step.spec.urn == "beam:transform:pardo:v1"
    }


@on_dataflow
def test_what_a_spec_says_of_its_workers(stored: str, tmp_path: Path) -> None:
    spec = write_spec(tmp_path / "run.json", target(f"{stored}/volume"), **REMOTE)
    job, options = planned(spec)
    workers, google = options.view_as(WorkerOptions), options.view_as(GoogleCloudOptions)
    assert workers.max_num_workers == 10
    assert workers.sdk_container_image == "us-docker.pkg.dev/p/r/image:tag"
    assert (google.project, google.region, google.labels) == ("my-project", "us-central1", ["team=cells"])
    assert job.warnings == [
        "worker_cluster_name is ignored: Dataflow starts its own machines, and stops them when the job ends",
        "worker_cluster_project is ignored: Dataflow must be told --project before a spec is read",
        "worker_cluster_region is ignored: Dataflow must be told --region before a spec is read",
    ]
    found = steps(job, options)
    wanted = {
        "min_ram_bytes": str(18560 * 2**20),
        "accelerator": "type:nvidia-tesla-t4;count:1;install-nvidia-driver",
    }
    assert {name: hints for name, hints in found.items() if hints} == {"Apply/Process chunks/ParDo(_ApplyFn)": wanted}
    assert "Apply/Reduce" in found
    assert list(Folder(f"{stored}/volume").list()) == []


@on_dataflow
def test_the_command_line_comes_first(stored: str, tmp_path: Path) -> None:
    spec = write_spec(tmp_path / "run.json", target(f"{stored}/volume"), **REMOTE)
    given = ["--max_num_workers=3", "--sdk_container_image=mine:1", "--labels=a=b"]
    options = planned(spec, *given)[1]
    workers = options.view_as(WorkerOptions)
    assert (workers.max_num_workers, workers.sdk_container_image) == (3, "mine:1")
    assert options.view_as(GoogleCloudOptions).labels == ["a=b"]


@on_dataflow
def test_a_spec_of_a_run_here_asks_for_no_workers(stored: str, tmp_path: Path) -> None:
    job, options = planned(write_spec(tmp_path / "run.json", target(f"{stored}/volume")))
    assert (dict(job.beam_defaults), job.warnings) == ({}, [])
    assert not any(steps(job, options).values())


@on_dataflow
def test_the_graph_is_small_however_large_the_volume_is(stored: str, tmp_path: Path) -> None:
    def size(factor: int) -> int:
        src = f"made://image?size={64 * factor},{64 * factor},8&resolution=8,8,40&chunk=16,16,4"
        corners = {"start_coord": [0, 0, 0], "end_coord": [64 * factor, 64 * factor, 8], "resolution": [8, 8, 40]}
        flow = target(
            f"{stored}/volume",
            bbox={"@type": "BBox3D.from_coords", **corners},
            op_kwargs={"src": layer(src)},
            dst=new(f"{stored}/volume", src),
        )
        job, options = planned(write_spec(tmp_path / "run.json", flow))
        graph = beam.Pipeline(options=options)
        job.build(graph, Execution(1, None))
        graph.run()
        return int(graph.runner.proto_pipeline.ByteSize())

    assert size(1000) < size(1) + 40_000


@on_dataflow
@pytest.mark.parametrize("place", ["dst", "src", "scratch"])
def test_places_on_this_machine(place: str, stored: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = f"file://{tmp_path}"
    if place == "src":
        assert run(write_spec(tmp_path / "made.json", target(f"{here}/here/volume"))) == 0
        capsys.readouterr()
    flows = {
        "dst": (target(f"{here}/volume"), "spec", f"{here}/volume"),
        "src": (
            target(f"{stored}/volume", op_kwargs={"src": layer(f"{here}/here/volume")}),
            "spec",
            f"{here}/here/volume",
        ),
        "scratch": (
            target(f"{stored}/volume", level_intermediaries_dirs=[f"{here}/scratch"]),
            "scratch",
            f"{here}/scratch",
        ),
    }
    flow, option, came = flows[place]
    spec = write_spec(tmp_path / "run.json", flow)
    before = tree(tmp_path)
    check_refusal(
        apply.main([f"--spec={spec}", *DATAFLOW]),
        rf"^error: --{option}: expected a place that every worker of --runner reaches, such as gs:// .* came {came}, "
        "which is on this machine: name another place, or run here, without --runner$",
        capsys,
    )
    assert tree(tmp_path) == before


@on_dataflow
@pytest.mark.parametrize("option", ["project", "region"])
def test_what_beam_asks_for_before_a_spec_is_read(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [each for each in DATAFLOW if not each.startswith(f"--{option}")]
    check_refusal(
        apply.main([f"--spec={tmp_path}/none.json", *options]),
        rf"^error: --runner=DataflowRunner: Missing required option: {option}\.$",
        capsys,
    )


def test_a_spec_for_workers_elsewhere_runs_here_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flow = target(f"file://{tmp_path}/volume", fn_semaphores=["read"])
    spec = write_spec(tmp_path / "run.json", flow, **REMOTE, max_task_retry=5)
    assert run(spec) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert warnings == [
        "warning: fn_semaphores is ignored: workers share no locks: --processes says how many work at once",
        "warning: max_task_retry is ignored: Beam does again what failed, and a job fails with what fails always",
        "warning: worker_cluster_name is ignored: Dataflow starts its own machines, and stops them when the job ends",
        "warning: worker_cluster_project is ignored: Dataflow must be told --project before a spec is read",
        "warning: worker_cluster_region is ignored: Dataflow must be told --region before a spec is read",
        "warning: the spec asks for workers of Google Cloud, and this run is on this machine: give "
        "--runner=DataflowRunner --project=P --region=R --temp_location=gs://BUCKET/tmp for them",
    ]


def files(url: str) -> dict[str, bytes | None]:
    """Return what stands in a folder, without what tells of the run; names are those of files in a bucket."""
    folder = Folder(url)
    names = {name.removesuffix(".gz"): name for name in folder.list()}
    kept = [name for name in names if name != "provenance" and "/apply/" not in name]
    return {name: folder.read(names[name]) for name in sorted(kept)}


def in_a_bucket(bucket: str, tmp_path: Path) -> None:
    """Copy from and to a bucket, interrupted, and compare with files."""
    src = SRC.replace("chunk=16,16,4", "chunk=32,32,4")
    sizes: dict[str, Any] = {
        "processing_chunk_sizes": [[32, 32, 4]],
        "processing_crop_pads": [2, 2, 0],
        "processing_blend_pads": [8, 8, 0],
        "max_reduction_chunk_size": [32, 32, 4],
    }
    flow = target(f"{bucket}/source", **sizes, dst=new(f"{bucket}/source", src))
    assert run(write_spec(tmp_path / "source.json", flow)) == 0
    flow["op_kwargs"] = {"src": layer(f"{bucket}/source")}
    flow["level_intermediaries_dirs"] = [f"{bucket}/scratch"]
    flow["dst"] = new(f"{bucket}/volume", f"{bucket}/source")
    spec = write_spec(tmp_path / "run.json", flow)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("beam_volumes.applying.processing.record", _Stopping(3))
        with pytest.raises(RuntimeError, match="pulled the plug"):
            run(spec)
    assert len([*Folder(f"{bucket}/scratch").list()]) == 8
    assert run(spec) == 0
    here = target(f"file://{tmp_path}/volume", **sizes, dst=new(f"file://{tmp_path}/volume", src))
    assert run(write_spec(tmp_path / "here.json", here)) == 0
    expected = files(f"file://{tmp_path}/volume")
    assert len(expected) == 1 + 8
    assert files(f"{bucket}/volume") == expected
    report = Folder(f"{bucket}/volume").read_json(f"{SCALE}/apply/{BOX}/report.json") or {}
    assert report["stages"]["boxes"]["done_by_an_interrupted_run"] == 3
    assert not [*Folder(f"{bucket}/volume").list(".beam_volumes")]
    assert not [*Folder(f"{bucket}/scratch").list()]


class _Stopping:
    """Notes so many units, and no more."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __call__(self, *args: Any) -> None:
        from beam_volumes.receipts import record

        if not self.left:
            raise RuntimeError("pulled the plug")
        self.left -= 1
        record(*args)


def test_cloud_storage(stored: str, tmp_path: Path) -> None:
    in_a_bucket(stored, tmp_path)


def test_s3(bucket: str, tmp_path: Path) -> None:
    in_a_bucket(bucket, tmp_path)
