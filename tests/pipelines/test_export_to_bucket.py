"""An export into an object store has the bytes of one onto a disk."""

from pathlib import Path

import pytest

from beam_volumes.storage import Folder, s3
from pipelines import export

OPTIONS = ["--src=made://neurons?size=200,150,60&chunk=32,32,16", "--chunk_size=32,32,16", "--memory_target=4000000"]


@pytest.mark.parametrize(("sharded", "processes"), [(True, 2), (False, 1)])
def test_a_bucket_holds_what_a_disk_would(bucket: str, tmp_path: Path, sharded: bool, processes: int) -> None:
    options = [*OPTIONS, f"--sharded={sharded}", f"--processes={processes}"]
    assert export.main([*options, f"--dst={bucket}/seg"]) == 0
    assert export.main([*options, f"--dst=file://{tmp_path}/seg"]) == 0
    stored, expected = Folder(f"{bucket}/seg"), Folder(f"file://{tmp_path}/seg")
    # Compressed chunk files are told by their names on a disk, and by their headers in a bucket.
    names = {name.removesuffix(".gz"): name for name in expected.list()}
    assert sorted(stored.list()) == sorted(names)
    assert len(names) > 5
    for name in names.keys() - {"report.json", "provenance"}:
        assert stored.read(name) == expected.read(names[name]), name


def test_an_interrupted_export_goes_on_in_a_bucket(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [*OPTIONS, f"--dst={bucket}/seg", "--processes=1"]
    with monkeypatch.context() as patch:
        patch.setattr("beam_volumes.shard_assembly.record", _record_twice_then_stop())
        with pytest.raises(RuntimeError, match="pulled the plug"):
            export.main(command)
    first = next(iter(Folder(f"{bucket}/seg").list("16_16_40/")))
    before = s3._client().head_object(Bucket="volumes", Key=f"seg/{first}")["LastModified"]
    assert export.main(command) == 0
    assert s3._client().head_object(Bucket="volumes", Key=f"seg/{first}")["LastModified"] == before
    report = Folder(f"{bucket}/seg").read_json("report.json")
    assert report is not None
    assert report["stages"]["shards"]["done_by_an_interrupted_run"] == 2
    assert report["stages"]["regions"]["taken_up_from_an_interrupted_run"] == report["stages"]["regions"]["done"]
    assert not list(Folder(f"{bucket}/seg").list(".beam_volumes"))


def _record_twice_then_stop() -> object:
    from beam_volumes.receipts import Receipt, record
    from beam_volumes.runs import Claim

    calls = []

    def stand_in(claim: Claim, receipt: Receipt) -> None:
        calls.append(receipt)
        if len(calls) > 2:
            raise RuntimeError("pulled the plug")
        record(claim, receipt)

    return stand_in
