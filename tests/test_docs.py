"""What the README and the docs claim: their commands run, their names exist, their figures are those of the code."""

import dataclasses
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from cloudvolume import CloudVolume
from PIL import Image

from beam_volumes.export_planning import share_of_limits
from beam_volumes.spatial_index.files import find_index_files
from beam_volumes.spatial_index.queries import SpatialIndex
from examples import demo
from pipelines.beam_options import known_names, vcpus
from pipelines.export import Config
from pipelines.options import options_of, parse
from templates.generate import PIPELINES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {p.name: p.read_text() for p in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def block_with(text: str) -> str:
    (found,) = (b for b in blocks(README, "sh") if text in b)
    return found


def run_block(block: str, folder: Path) -> str:
    """Run a block of the README in an empty folder."""
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    done = subprocess.run(["bash", "-ec", block], cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_snippet(text: str, folder: Path, what: str = "") -> str:
    """Run the Python of the README that has `text` in it; return what is printed of its last line."""
    (snippet,) = (b for b in blocks(README, "python") if text in b)
    *lines, last = snippet.strip().splitlines()
    last = last.partition("  #")[0]
    code = "\n".join([*lines, f"print(({last}){what})"])
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_first_export_of_the_readme_works_and_can_be_opened(tmp_path: Path) -> None:
    shown = run_block(block_with("--src='made://neurons"), tmp_path)
    assert f"file://{tmp_path}/out/neurons is complete" in shown
    assert run_snippet("[100:200, 100:200", tmp_path, ".shape") == "(100, 100, 1, 1)"


def test_the_counts_and_mips_of_the_readme_are_made(tmp_path: Path) -> None:
    run_block(block_with("--src='made://neurons"), tmp_path)
    shown = run_block(block_with("pipelines.count_voxels"), tmp_path)
    assert f"file://{tmp_path}/out/neurons is complete" in shown
    folder = tmp_path / "out/neurons/16_16_40/stats"
    section = README.split("## Voxel counts")[1].split("\n## ")[0]
    assert {path.name for path in folder.iterdir()} == set(re.findall(r"voxel_counts\.\w+", section))
    table = pq.read_table(folder / "voxel_counts.parquet")
    assert all(f"`{name}`" in section for name in table.column_names)
    assert sum(table["voxels"].to_pylist()) == 512 * 512 * 128
    assert run_snippet("IntMap(", tmp_path) == str(table["voxels"][0].as_py())
    shown = run_block(block_with("pipelines.downsample"), tmp_path)
    assert f"file://{tmp_path}/out/neurons is complete" in shown
    assert CloudVolume(f"file://{tmp_path}/out/neurons", mip=3, progress=False)[:].shape == (64, 64, 128, 1)


def test_the_meshes_of_the_readme_are_made_in_one_run_and_in_stages(tmp_path: Path) -> None:
    run_block(block_with("--src='made://neurons"), tmp_path)
    shown = run_block(block_with("pipelines.mesh --layer"), tmp_path)
    assert f"\nfile://{tmp_path}/out/neurons/mesh is complete\n" in shown
    folder = tmp_path / "out/neurons"
    assert json.loads((folder / "info").read_text())["mesh"] == "mesh"
    assert {path.name for path in (folder / "mesh").iterdir()} >= {"info", "report.json", "meshes.png"}
    axes, _, labels = run_snippet(".mesh.get(", tmp_path, ".shape[1], sorted(labels)").partition(" ")
    index = SpatialIndex(find_index_files(f"file://{folder}", "mesh"))
    assert (axes, json.loads(labels)) == ("3", index.labels_in_box((0, 0, 0, 2000, 2000, 2000)).tolist())
    voxels = np.asarray(CloudVolume(f"file://{folder}", progress=False)[:])[..., 0]
    values, counts = np.unique(voxels, return_counts=True)
    meshed = values[(values != 0) & (counts >= 100)]
    in_box = np.intersect1d(voxels[:125, :125, :50], meshed).tolist()
    assert set(in_box) <= set(json.loads(labels)) < set(meshed.tolist())
    shown = run_block(block_with("pipelines.forge_mesh --layer"), tmp_path)
    ends = re.findall("^(.*) is complete$", shown, re.MULTILINE)
    assert ends == [f"file://{folder}/mesh_fragments", f"sqlite://{tmp_path}/out/index.db", f"file://{folder}/merged"]
    assert (tmp_path / "out/index.db").stat().st_size > 1000
    # How many labels are found, each in one file or more.
    assert int(run_snippet("SpatialIndex(", tmp_path, ".keys().__len__()")) > 10
    shards = sorted(path.name for path in (folder / "mesh").glob("*.shard"))
    assert shards
    for name in shards:
        assert (folder / "merged" / name).read_bytes() == (folder / "mesh" / name).read_bytes()


def test_the_function_of_the_readme_is_applied(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    shown = run_block(block_with("pipelines.apply"), tmp_path)
    assert f"file://{tmp_path}/out/apply/smooth is complete" in shown
    assert run_snippet("out/apply/smooth", tmp_path, ".shape") == "torch.Size([1, 512, 512, 1])"
    section = README.split("## Functions and models")[1].split("\n## ")[0]
    folder = tmp_path / "out/apply/smooth" / re.findall(r"`(\S+/apply/\S+/)`", section)[0]
    assert {path.name for path in folder.iterdir()} == set(re.findall(r"`(report\.json|slice\.png)`", section))


def test_the_server_of_the_readme_serves_an_export(tmp_path: Path) -> None:
    block = block_with("beam_volumes.testing.proofreading_server")
    assert "kill %1" in block
    shown = run_block(f"set -m\n{block}", tmp_path)
    assert f"file://{tmp_path}/out/edited is complete" in shown
    exported = np.asarray(CloudVolume(f"file://{tmp_path}/out/edited", progress=False)[:])
    assert exported.shape == (256, 256, 64, 1)
    assert len(np.unique(exported)) > 100


def test_the_demonstration_compares_every_voxel_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert demo.main() == 0
    shown = capsys.readouterr().out
    assert "6,553,600 voxels compared with the server's history: 0 differ" in shown
    picture = Image.open(tmp_path / "out/demo/slice.png")
    assert picture.size == (1310, 552)
    assert len(picture.getcolors(maxcolors=10**6) or []) > 300


def test_every_export_command_in_the_docs_has_options_that_exist() -> None:
    names = {f.name for f in dataclasses.fields(Config)}
    seen = 0
    for block in [b for page in PAGES.values() for b in blocks(page, "sh")]:
        for command in re.findall(r"python -m pipelines\.export((?:[^\n\\]|\\\n)*)", block):
            config, _ = parse(Config, [word.strip("'") for word in command.replace("\\\n", " ").split()])
            assert config.src
            seen += 1
        for parameters in re.findall(r"--parameters='\^~\^(.*?)'", block):
            assert {p.split("=")[0] for p in parameters.split("~")} <= names
            seen += 1
    assert seen >= 6


def test_jobs_in_the_docs_have_no_more_processes_than_a_server_may_be_asked_by() -> None:
    seen = 0
    for block in [b for page in PAGES.values() for b in blocks(page, "sh")]:
        for job in re.findall(r"src=graphene://.*", block.replace("\\\n", " ")):
            machines = re.search(r"--max[-_](?:num_)?workers=(\d+)", block)
            if machine := re.search(r"machine[-_]type=(\S+)", block):
                assert machines, job
                workers = int(machines[1]) * (vcpus(machine[1]) or 0)
                assert share_of_limits(Config.max_requests_in_flight, None, workers).max_requests_in_flight == 1
                seen += 1
    assert seen == 3


def test_options_that_are_named_in_the_text_exist() -> None:
    beam = {"runner", "max_num_workers", "machine_type", "disk_size_gb", "temp_location", "staging_location"}
    beam |= {"dataflow_service_options", "experiments", "labels", "project", "region", "sdk_container_image"}
    assert {f"--{name}" for name in beam} <= known_names()
    configs = [importlib.import_module(f"pipelines.{name}").Config for name in PIPELINES]
    names = {o.name for config in configs for o in options_of(config)} | beam | {"name", "noname"}
    for page, text in PAGES.items():
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
        named = set(re.findall(r"`--([a-z_]+)", prose))
        assert named <= names, page


def test_files_and_links_that_the_docs_name_exist() -> None:
    for page, text in PAGES.items():
        folder = ROOT if page == "README.md" else ROOT / "docs"
        for link in re.findall(r"\]\((?!https?://)([^)#]+)", text):
            assert (folder / link).exists(), f"{page}: {link}"


def test_make_targets_that_the_readme_names_exist() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z]+)\b", README.replace("Python 3.11 and make, ", ""))) <= set(targets)
