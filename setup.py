"""Package metadata of beam-volumes; tools are configured in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="beam-volumes",
    version="0.1.0",
    description="Apache Beam pipelines for petascale volumes in Neuroglancer's Precomputed format",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["beam_volumes*", "pipelines*", "transforms*"]),
    package_data={"beam_volumes": ["py.typed"]},
    install_requires=[
        "absl-py>=2",
        "apache-beam>=2.77,<2.78",
        "brotli>=1",
        "cloud-files>=6.4",
        "cloud-volume>=12.15",
        "compressed-segmentation>=2.3",
        "compresso>=3.3",
        "crackle-codec>=0.53",
        "crc32c>=2.7",
        "deflate>=0.8",
        "DracoPy>=1.7,<3",
        "fastremap>=1.17",
        "matplotlib>=3.9",
        "meshoptimizer>=0.2.30a0",
        "numba>=0.60",
        "numpy>=2",
        "packaging>=23",
        "pyarrow>=16",
        "pymysql>=1.2.4",
        "pysimdjson>=7",
        "pyspng-seunglab>=1.1",
        "pyyaml>=6",
        "requests>=2.32",
        "rich>=13",
        "simplejpeg>=1.6",
        "zmesh>=1.15",
    ],
    extras_require={
        # The demonstration's picture.
        "demo": ["pillow>=10"],
        # Dataflow only: it is most of the size of an installation.
        "gcp": ["apache-beam[gcp]>=2.77,<2.78", "cloud-sql-python-connector>=1.18"],
        # Layers and apply only: who exports does not pay for it.
        "apply": ["torch==2.13.0"],
        # Sources in other formats than Precomputed.
        "zarr": ["zarr>=3"],
        "test": [
            "hypothesis>=6",
            "mapbuffer>=0.7",
            "moto[server]>=5",
            "mypy>=2",
            # What CloudVolume reads MySQL with.
            "mysql-connector-python>=9",
            # The client of the browser test; its files only, nothing imports it.
            "neuroglancer>=2.40",
            "pillow>=10",
            "pytest>=8",
            "ruff>=0.17",
            "tensorstore>=0.1.80",
            "torch==2.13.0",
            "types-pymysql",
            "types-pyyaml",
            "types-requests",
            # Chromium is driven over a websocket.
            "websockets>=15",
            "zarr>=3",
        ],
        # GPL: for side-by-side measurements only, never imported by the packages.
        "benchmark": ["igneous-pipeline>=4.37", "psutil>=6"],
    },
)
