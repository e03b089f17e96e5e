"""The client of Neuroglancer on a page: what it shows, and whether it has all of it."""

import base64
import io
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.browser.chromium import Page
from tests.browser.file_server import FileServer

PATH = "/v/viewer"
"""The client takes what is behind `/v/` for its name."""

# All that is to be drawn is on the graphics card; asked twice, as events between may bring more to draw.
_READY = """
(async () => {
  if (window.viewer === undefined || !viewer.isReady()) return false;
  await new Promise((done) => setTimeout(done));
  return viewer.isReady();
})()
"""

# Why sources could not be opened, and warnings; that they are being opened is no more than information, 0.
_LAYER_ERRORS = """
window.viewer === undefined ? [] : viewer.layerManager.managedLayers.flatMap((managed) =>
  (managed.layer?.dataSources ?? []).flatMap((source) =>
    source.messages.messages.filter(({severity}) => severity > 0).map(({message}) => message)))
"""

# What is drawn is gone after the task that drew it.
_DRAWN = """
(() => {
  const {display} = viewer, {canvas} = display, whole = canvas.getBoundingClientRect();
  display.draw();
  const panels = [...display.panels].map(({element}) => {
    const {left, top} = element.getBoundingClientRect();
    return [left - whole.left + element.clientLeft, top - whole.top + element.clientTop,
            element.clientWidth, element.clientHeight];
  });
  return {image: canvas.toDataURL(), panels};
})()
"""

# Those on the graphics card, 0; keys are `label,high word of the label/level of detail:number`.
_FRAGMENTS = """
viewer.layerManager.managedLayers.flatMap((managed) => managed.layer.renderLayers)
  .filter((layer) => layer.source?.fragmentSource !== undefined)
  .flatMap((layer) => [...layer.source.fragmentSource.chunks])
  .filter(([key, chunk]) => chunk.state === 0)
  .map(([key]) => key.split(/[,/:]/).map(Number))
"""

_BAD_LEVELS = ("error", "exception", "assert")

Pixels = npt.NDArray[np.uint8]


class FragmentKey(NamedTuple):
    """A fragment of a mesh; `number` counts the fragments of a label."""

    label: int
    lod: int
    number: int


def client_folder() -> Path:
    """Return the folder of the compiled client."""
    # It is not imported: its Python part is for other uses.
    spec = find_spec("neuroglancer")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], "static/client")


class Viewer:
    """Neuroglancer on a page, from a server that serves the client as `PATH` beside volumes."""

    def __init__(self, page: Page, server: FileServer) -> None:
        self.page, self.server = page, server
        self._shown = 0

    def show(self, state: Mapping[str, Any]) -> None:
        """Show a state, and wait until all of it is drawn, or there is an error."""
        # A page that differs in what is behind `#` alone would not be loaded anew, and be ready before it changes.
        self._shown += 1
        self.page.open(f"{self.server.url}{PATH}/?{self._shown}#!{quote(json.dumps(state))}")
        self.page.wait_until(lambda: bool(self.page.evaluate(_READY) or self.errors()))

    def errors(self) -> list[str]:
        """Return all that went wrong so far: on the console, in a layer, and in requests."""
        page = self.page
        # The client logs that it cannot read or decode a chunk as it logs anything else.
        said = [f"{level}: {text}" for level, text in page.console if level in _BAD_LEVELS or "rror" in text]
        answered = [f"status {status}: {url}" for url, status in page.responses if status > 399]
        served = [f"status {r.status}: {r.path}" for r in self.server.requests if r.status > 399]
        layers: list[str] = page.evaluate(_LAYER_ERRORS)
        return [*said, *answered, *served, *page.failures, *layers]

    def panels(self) -> list[Pixels]:
        """Return what is drawn in each panel, without buttons and texts on top: RGB, rows from the top."""
        drawn = self.page.evaluate(_DRAWN)
        pixels = pixels_of(base64.b64decode(drawn["image"].removeprefix("data:image/png;base64,")))
        return [pixels[y : y + height, x : x + width] for x, y, width, height in drawn["panels"]]

    def fragments(self) -> set[FragmentKey]:
        """Return the fragments of meshes that are there to be drawn."""
        found = self.page.evaluate(_FRAGMENTS)
        return {FragmentKey(low | high << 32, lod, number) for low, high, lod, number in found}


def pixels_of(png: bytes) -> Pixels:
    """Return RGB, rows from the top."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
