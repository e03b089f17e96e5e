"""What specs say of how a flow is run."""

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_volumes import builder
from beam_volumes.applying.execution import (
    Execution,
    LocalRequest,
    QueueRequest,
    RemoteRequest,
    execute,
    execute_on_gcp_with_sqs,
)
from beam_volumes.applying.flow import ApplyFlow
from beam_volumes.applying.flow_request import FlowRequest
from beam_volumes.applying.worker_resources import GroupRequest, Workers
from beam_volumes.errors import OptionError
from beam_volumes.subchunk_request import SubchunkRequest

FLOW = ApplyFlow(SubchunkRequest([[8, 8, 8]]), FlowRequest())
GUIDE = {
    "worker_image": "us.gcr.io/{PROJECT}/zetta_utils:{tag}",
    "worker_cluster_name": "{CLUSTER_NAME}",
    "worker_cluster_region": "us-east1",
    "worker_cluster_project": "zetta-research",
    "worker_resources": {"memory": "18560Mi", "nvidia.com/gpu": "1"},
    "worker_replicas": 10,
    "local_test": True,
}
OTHER_VALUES = {
    "debug": True,
    "local_test": True,
    "num_procs": 3,
    "worker_groups": {"a": {"replicas": 2}},
    "worker_image": "i",
    "worker_labels": {"a": "b"},
    "worker_replicas": 4,
    "worker_resource_requests": {"cpu": 2},
    "worker_resources": {"memory": "1Gi"},
}


def remote(**arguments: Any) -> Execution:
    return execute_on_gcp_with_sqs(FLOW, **arguments)


def test_the_guide_says_what_workers_are() -> None:
    assert remote(**GUIDE) == Execution(
        FLOW,
        local=True,
        workers=Workers(
            max_num_workers=10,
            memory_bytes=18560 * 2**20,
            gpus=1,
            image="us.gcr.io/{PROJECT}/zetta_utils:{tag}",
        ),
        ignored={
            "worker_cluster_name": "Dataflow starts its own machines, and stops them when the job ends",
            "worker_cluster_project": "Dataflow must be told --project before a spec is read",
            "worker_cluster_region": "Dataflow must be told --region before a spec is read",
        },
    )


def test_defaults() -> None:
    assert execute(FLOW) == Execution(FLOW, local=True, workers=Workers(), ignored={})
    assert remote() == Execution(FLOW, local=False, workers=Workers(), ignored={})


def test_specs_name_both() -> None:
    flow = {"@type": "build_subchunkable_apply_flow", "processing_chunk_sizes": [[8, 8, 8]]}
    for name, local in (("mazepa.execute", True), ("mazepa.execute_on_gcp_with_sqs", False)):
        built = builder.build({"@type": name, "target": flow, "batch_gap_sleep_sec": 0.1})
        assert built.target.request == SubchunkRequest([[8, 8, 8]])
        assert built.local is local
        assert built.ignored == {"batch_gap_sleep_sec": "Beam has no queue"}


def _other(default: Any) -> Any:
    return (not default) if isinstance(default, bool) else "given"


@pytest.mark.parametrize(
    ("run", "name", "value"),
    [
        *(
            (execute, each.name, _other(each.default))
            for request in (QueueRequest, LocalRequest)
            for each in fields(request)
        ),
        *(
            (execute_on_gcp_with_sqs, each.name, OTHER_VALUES.get(each.name, _other(each.default)))
            for request in (QueueRequest, RemoteRequest)
            for each in fields(request)
        ),
    ],
)
def test_each_argument_is_used_or_named(run: Any, name: str, value: Any) -> None:
    local = {"local_test": True} if name == "debug" else {}
    found = run(FLOW, **{name: value}, **local)
    before = run(FLOW, **local)
    if name in OTHER_VALUES:
        assert found.ignored == {}
        assert (found.local, found.workers) != (before.local, before.workers)
    else:
        assert list(found.ignored) == [name]
        assert len(found.ignored[name]) > 10
        assert replace(found, ignored={}) == before


@pytest.mark.parametrize("name", [each.name for each in fields(GroupRequest)])
def test_each_argument_of_a_group_is_used_or_named(name: str) -> None:
    used = {
        "gpu_accelerator_type": "nvidia-l4",
        "labels": {"a": "b"},
        "max_replicas": 3,
        "replicas": 2,
        "resource_limits": {"memory": 5},
        "resource_requests": {"cpu": "500m"},
    }
    found = remote(worker_groups={"cpu": {name: used.get(name, "given")}})
    if name in used:
        assert found.ignored == {}
        assert found.workers != Workers()
    else:
        assert list(found.ignored) == [f"worker_groups.cpu.{name}"]
        assert found.workers == Workers()


def test_groups_become_workers_of_one_kind() -> None:
    found = remote(
        worker_groups={
            "cpu": {"replicas": 5, "resource_limits": {"memory": "4Gi", "cpu": 3}, "labels": {"a": 1}},
            "gpu": {
                "replicas": 1,
                "max_replicas": 2,
                "resource_limits": {"memory": "16Gi", "nvidia.com/gpu": 2},
                "resource_requests": {"memory": "8Gi"},
                "gpu_accelerator_type": "nvidia-tesla-t4",
                "queue_tags": ["gpu"],
            },
        }
    )
    assert found.workers == Workers(
        max_num_workers=7,
        memory_bytes=8 * 2**30,
        cpus=3,
        gpus=2,
        gpu_type="nvidia-tesla-t4",
        labels={"a": "1"},
    )
    alike = "all workers are alike: together they have what all groups ask for"
    assert found.ignored == {"worker_groups": alike, "worker_groups.gpu.queue_tags": alike}


def test_debug_is_one_process() -> None:
    assert remote(local_test=True, num_procs=4).workers.processes == 4
    assert remote(local_test=True, num_procs=4, debug=True).workers.processes == 1


def test_what_is_asked_for_at_least_counts() -> None:
    found = remote(
        worker_resources={"memory": "8Gi", "cpu": 4, "ephemeral-storage": "1Gi"},
        worker_resource_requests={"memory": "2Gi"},
    )
    assert (found.workers.memory_bytes, found.workers.cpus) == (2 * 2**30, 4)
    assert found.ignored == {
        "worker_resources.ephemeral-storage": "--machine_type and --disk_size_gb say what else machines have"
    }


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        ("18560Mi", 18560 * 2**20),
        ("16Gi", 16 * 2**30),
        ("1.5Gi", 3 * 2**29),
        ("16G", 16 * 10**9),
        ("129e6", 129_000_000),
        ("1E", 10**18),
        ("1E3", 1000),
        ("2Ki", 2048),
        ("2k", 2000),
        ("1500m", 2),
        (" 7 ", 7),
        (4096, 4096),
        (1.5e9, 1_500_000_000),
    ],
)
def test_memory(memory: Any, expected: int) -> None:
    assert remote(worker_resources={"memory": memory}).workers.memory_bytes == expected


@pytest.mark.parametrize("memory", ["16GB", "much", "", "-1Gi", "16 Gi", "1e999", None, True, [1], "Gi", "inf"])
def test_memory_that_is_none_is_refused(memory: Any) -> None:
    with pytest.raises(OptionError, match=r"worker_resources\.memory: expected memory, such as 18560Mi or 16Gi, came"):
        remote(worker_resources={"memory": memory})


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.integers(0, 10**15), st.sampled_from([("", 1), ("Ki", 2**10), ("Mi", 2**20), ("k", 1000), ("M", 10**6)]))
def test_whole_quantities_are_exact(number: int, unit: tuple[str, int]) -> None:
    assert remote(worker_resources={"memory": f"{number}{unit[0]}"}).workers.memory_bytes == number * unit[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"worker_replicas": 0}, "worker_replicas: expected a number from 1, came 0"),
        ({"worker_replicas": "10"}, "worker_replicas: expected a number from 1, came '10'"),
        ({"num_procs": True}, "num_procs: expected a number from 1, came True"),
        ({"worker_image": 3}, "worker_image: expected text, came 3: quote it"),
        ({"worker_resources": "8Gi"}, "worker_resources: expected values by name, came '8Gi': give a dictionary"),
        ({"worker_groups": {"a": 3}}, r"worker_groups\.a: expected values by name, came 3"),
        ({"worker_groups": {"a": {"replica": 3}}}, r"replica: worker_groups\.a takes no argument .* 'replicas'"),
        ({"worker_groups": {"a": {"max_replicas": -1}}}, r"worker_groups\.a\.max_replicas: expected a number from 1"),
        (
            {"worker_resources": {"cpu": "many"}},
            r"worker_resources\.cpu: expected vCPUs, such as 4 or 500m, came 'many'",
        ),
        (
            {"worker_resource_requests": {"nvidia.com/gpu": "all"}},
            r"worker_resource_requests\.nvidia\.com/gpu: expected a number of GPUs, came 'all'",
        ),
        (
            {"worker_groups": {"a": {"gpu_accelerator_type": "b"}, "c": {"gpu_accelerator_type": "a"}}},
            "worker_groups: expected one gpu_accelerator_type, since workers are alike, came a, b: choose one",
        ),
        ({"debug": True}, "debug: expected with local_test: true, came without"),
        ({"worker_replica": 3}, "worker_replica: .*did you mean 'worker_replicas'"),
    ],
)
def test_values_that_cannot_be_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        remote(**arguments)


def test_arguments_of_the_other_are_refused() -> None:
    with pytest.raises(OptionError, match=r"worker_image: mazepa\.execute takes no argument of this name"):
        execute(FLOW, worker_image="a")


@pytest.mark.parametrize("run", [execute, execute_on_gcp_with_sqs])
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, "target: expected one flow, such as .* came NoneType: give one"),
        ({"a": 1}, "came dict: give one"),
        ([FLOW, FLOW], "came 2 of them: give each a spec of its own, and run one after another"),
        (Execution(FLOW), "came Execution: give one"),
    ],
)
def test_another_target_is_refused(run: Any, target: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        run(target)
