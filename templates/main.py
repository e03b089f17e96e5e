"""Entry of a Flex Template: the pipeline that the image was built for, on the workers' image.

Google's launcher runs this file with the template's parameters as `--name=value`, and Beam's options after the same
pattern. It imports the pipeline instead of running it as a script, so that nothing to be pickled stands in `__main__`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence

_IMAGE_OPTIONS = ("--sdk_container_image", "--worker_harness_container_image")


def main(argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """Launch the pipeline named by BEAM_VOLUMES_PIPELINE; workers run BEAM_VOLUMES_IMAGE unless an option says else."""
    pipeline = importlib.import_module(f"pipelines.{environment['BEAM_VOLUMES_PIPELINE']}")
    return pipeline.main(with_image(argv, environment.get("BEAM_VOLUMES_IMAGE", "")))


def with_image(argv: Sequence[str], image: str) -> list[str]:
    """Return the arguments with the workers' image, where they name none: Beam's own image lacks this package."""
    named = any(argument.split("=", 1)[0] in _IMAGE_OPTIONS for argument in argv)
    return [*argv] if named or not image else [*argv, f"--sdk_container_image={image}"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
