import importlib.util
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DebugOptions, PipelineOptions, StandardOptions
from apache_beam.testing.util import assert_that, equal_to

from beam_volumes.errors import OptionError
from pipelines.beam_options import beam_options, is_local, known_names, unknown_arguments, vcpus, workers_at_most

ROOT = Path(__file__).parents[2]
DATAFLOW = [
    "--runner=DataflowRunner",
    "--project=my-project",
    "--region=us-central1",
    "--temp_location=gs://my-bucket/temp",
    "--dry_run=True",
]
needs_gcp = pytest.mark.skipif(
    importlib.util.find_spec("apitools") is None, reason="DataflowRunner needs the extra: pip install -e '.[gcp]'"
)


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--runner=DirectRunner"],
        ["--runner=direct"],
        ["--runner=FnApiRunner"],
        ["--runner=SwitchingDirectRunner"],
        ["--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"],
        ["--runner=apache_beam.runners.direct.direct_runner.DirectRunner"],
        ["--direct_running_mode=in_memory", "--direct_num_workers=1"],
    ],
)
def test_every_local_name_is_the_engine_in_memory(args: list[str]) -> None:
    options = beam_options(args)
    assert is_local(options)
    assert workers_at_most(options) == 1
    with beam.Pipeline(options=options) as root:
        assert f"{type(root.runner).__module__}.{type(root.runner).__name__}" == (
            "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"
        )
        assert_that(root | beam.Create([1, 2]), equal_to([1, 2]))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--direct_running_mode=multi_threading"], "--direct_running_mode: expected in_memory, came multi_threading"),
        (["--direct_running_mode=multi_processing"], "lose elements without a word; leave .* use --processes"),
        (["--direct_num_workers=2"], "--direct_num_workers: expected 1, came 2"),
        (["--direct_num_workers=0"], "--direct_num_workers: expected 1, came 0"),
        (["--runner=FnApiRunner", "--direct_num_workers=4"], "--direct_num_workers: expected 1, came 4"),
        (["--runner=DaskRunner"], "--runner: DaskRunner cannot run this pipeline: .*; name FnApiRunner"),
        (["--runner=PrismRunner"], "--runner: PrismRunner cannot run this pipeline: .*; name FnApiRunner"),
        (["--runner=prism"], "--runner: prism cannot run this pipeline"),
        (["--runner=apache_beam.runners.dask.dask_runner.DaskRunner"], "DaskRunner cannot run this pipeline"),
        (["--runner=BundleBasedDirectRunner"], "BundleBasedDirectRunner cannot run this pipeline"),
        (["--runner=DataflwRunner"], "--runner: expected one of DataflowRunner, came 'DataflwRunner'"),
        (["--runner=no.such.Runner"], r"--runner: no.such.Runner cannot be loaded \(No module named 'no'\)"),
    ],
)
def test_runners_that_lose_elements_or_do_not_exist_are_refused(args: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        beam_options(args)


def test_portable_runners_are_not_local_and_unbounded() -> None:
    options = beam_options(["--runner=FlinkRunner", "--flink_master=host:8081"])
    assert options.view_as(StandardOptions).runner == "FlinkRunner"
    assert not is_local(options)
    assert workers_at_most(options) is None


@needs_gcp
@pytest.mark.parametrize(
    ("args", "workers"),
    [
        ([], None),
        (["--num_workers=3"], None),
        (["--max_num_workers=10"], None),
        (["--max_num_workers=10", "--machine_type=x9-newgpu-8g"], None),
        (["--max_num_workers=10", "--machine_type=n1-standard-4"], 40),
        (["--max_num_workers=10", "--worker_machine_type=custom-2-8192"], 20),
        (["--max_num_workers=10", "--machine_type=n1-standard-4", "--experiments=no_use_multiple_sdk_containers"], 10),
        (["--max_num_workers=10", "--experiments=a,no_use_multiple_sdk_containers"], 10),
        (["--max_num_workers=10", "--sdk_worker_parallelism=2"], 20),
        (["--autoscaling_algorithm=NONE", "--num_workers=3", "--machine_type=e2-standard-8"], 24),
        (["--autoscaling_algorithm=THROUGHPUT_BASED", "--num_workers=3", "--machine_type=e2-standard-8"], None),
    ],
)
def test_workers_at_most_counts_processes(args: list[str], workers: int | None) -> None:
    assert workers_at_most(beam_options([*DATAFLOW, *args])) == workers


@pytest.mark.parametrize(
    ("machine_type", "count"),
    [
        ("n1-standard-4", 4),
        ("n2-highmem-128", 128),
        ("c3-standard-22-lssd", 22),
        ("c3-standard-192-metal", 192),
        ("custom-6-20480", 6),
        ("n2-custom-16-131072-ext", 16),
        ("n1-custom-1-3840", 1),
        ("e2-medium", 2),
        ("f1-micro", 1),
        ("a2-highgpu-4g", 48),
        ("g2-standard-12", 12),
        ("zones/us-central1-a/machineTypes/n1-standard-1", 1),
    ],
)
def test_vcpus_are_told_by_the_name(machine_type: str, count: int) -> None:
    assert vcpus(machine_type) == count


@pytest.mark.parametrize("machine_type", ["standard", "n1-standard", "x9-newgpu-8g", ""])
def test_vcpus_are_not_guessed(machine_type: str) -> None:
    assert vcpus(machine_type) is None


@needs_gcp
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["--runner=DataflowRunner", "--region=r"],
            "Missing required option: project.; Missing GCS path option: temp_location",
        ),
        ([*DATAFLOW, "--staging_location=/tmp/here"], "Invalid GCS path .*/tmp/here"),
        ([*DATAFLOW[:3], "--temp_location=gs://b/t"], r"Invalid GCS bucket \(gs://b/t\)"),
        ([*DATAFLOW, "--num_workers=5", "--max_num_workers=2"], r"num_workers \(5\) cannot exceed max_num_workers"),
        ([*DATAFLOW, "--job_name=Bad Name"], r"Invalid job_name \(Bad Name\)"),
    ],
)
def test_options_that_dataflow_lacks_are_told_before_any_request(args: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        beam_options(args)


@needs_gcp
def test_a_process_of_a_cluster_works_on_one_element_at_a_time() -> None:
    for args in ([], ["--number_of_worker_harness_threads=1"]):
        assert beam_options([*DATAFLOW, *args]).view_as(DebugOptions).number_of_worker_harness_threads == 1
    with pytest.raises(OptionError, match="--number_of_worker_harness_threads: expected 1, came 12"):
        beam_options([*DATAFLOW, "--number_of_worker_harness_threads=12"])


def test_options_of_modules_loaded_later_are_known() -> None:
    # A class of options stays for as long as its process: hence another process.
    script = (
        "from apache_beam.options.pipeline_options import PipelineOptions\n"
        "from beam_volumes.errors import OptionError\n"
        "from pipelines.beam_options import unknown_arguments\n"
        "assert unknown_arguments(['--late=1', 'x']) == ['--late=1', 'x']\n"
        "class Late(PipelineOptions):\n"
        "    @classmethod\n"
        "    def _add_argparse_args(cls, parser):\n"
        "        parser.add_argument('--late', type=int)\n"
        "assert unknown_arguments(['--late=1', 'x']) == ['x']\n"
        "class Again(PipelineOptions):\n"
        "    @classmethod\n"
        "    def _add_argparse_args(cls, parser):\n"
        "        parser.add_argument('--late')\n"
        "try:\n"
        "    unknown_arguments([])\n"
        "except OptionError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert "declared twice, by __main__.Again too (argument --late: conflicting option string: --late)" in run.stdout


def test_beam_knows_what_it_documents() -> None:
    assert {"--runner", "--project", "--max_num_workers", "--machine_type", "--temp_location"} <= known_names()
    assert unknown_arguments(["--runner=X", "--max_num", "--temp=1"]) == ["--max_num", "--temp=1"]


def test_beam_options_are_beams_own() -> None:
    options = beam_options(["--job_name=a", "--experiments=x"])
    assert isinstance(options, PipelineOptions)
    assert options.get_all_options()["experiments"] == ["x"]
    assert options.get_all_options()["save_main_session"] is False
