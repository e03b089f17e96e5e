import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beam_volumes import downsampling_kernels as kernels
from beam_volumes.downsampling import Downsampler
from beam_volumes.warm_up import warm_up

DOCKERFILE = Path(__file__).parents[2] / "templates/Dockerfile"

WHAT_CODE_IS_KEPT_FOR = """
import json
from numba.core.registry import cpu_target
print(json.dumps(cpu_target.target_context.codegen().magic_tuple()))
"""


def compiled() -> dict[str, list[Any]]:
    return {name: list(found.signatures) for name, found in vars(kernels).items() if hasattr(found, "signatures")}


def test_a_run_compiles_nothing_more() -> None:
    warm_up()
    before = compiled()
    assert before["mode_of_blocks"]
    random = np.random.default_rng(7)
    for method, data_type in (("mode", "uint64"), ("mode", "uint8"), ("average", "uint8"), ("average", "float32")):
        downsampler = Downsampler(method, data_type)
        for shape in ((33, 20, 9, 2), (64, 20, 9, 1)):
            voxels = random.integers(0, 99, shape).astype(data_type)
            # Not to be written, as what is decoded from bytes.
            for array in (voxels, np.frombuffer(voxels.tobytes(), data_type).reshape(shape, order="F")):
                steps = [(2, 2, 1), (2, 2, 1), (3, 3, 2), (2, 2, 2), (2, 2, 2), (2, 2, 1)]
                made = list(downsampler.mips(downsampler.tile(array, (5, 0, 1)), steps))
                assert len(made) == len(steps)
    assert compiled() == before


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the image is for x86-64")
def test_what_is_compiled_for_the_image_is_found_on_any_of_its_machines() -> None:
    env = dict(
        re.findall(r'(NUMBA_\w+)="?([^"\s]*)"?', "".join(re.findall("^ENV NUMBA.*", DOCKERFILE.read_text(), re.M)))
    )
    command = [sys.executable, "-c", WHAT_CODE_IS_KEPT_FOR]
    came = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=True, timeout=60)
    # No features of this machine's processor.
    _, processor, features = json.loads(came.stdout)
    assert (processor, features) == ("x86-64-v2", "")
