"""Objects from specs: dictionaries that name functions and classes, which may stand in CUE, JSON or YAML files.

>>> from beam_volumes import builder
>>> @builder.register("echo")
... def echo(x):
...     return x
>>> builder.build({"@type": "echo", "x": "some_value"})
'some_value'
"""

from beam_volumes.builder.building import build, check
from beam_volumes.builder.cue import CueMissingError
from beam_volumes.builder.lambdas import Lambda
from beam_volumes.builder.overrides import override
from beam_volumes.builder.partials import Partial
from beam_volumes.builder.registry import REGISTRY, RegistryEntry, register
from beam_volumes.builder.specs import read_spec
from beam_volumes.builder.user_modules import import_modules

__all__ = [
    "REGISTRY",
    "CueMissingError",
    "Lambda",
    "Partial",
    "RegistryEntry",
    "build",
    "check",
    "import_modules",
    "override",
    "read_spec",
    "register",
]
