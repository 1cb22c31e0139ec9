"""Settings of whole ladders by name: options of SFT, GRPO and PHI that belong together."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml

from icdtune.errors import IcdtuneError


def with_preset(stage: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a stage with its part of the preset that they name; given ones come first.

    Args:
        stage: "sft", "grpo" or "phi".

    Raises:
        IcdtuneError: there is no such preset.
    """
    given = dict(options)
    name = given.pop("preset", None)
    if name is None:
        return given
    presets = read_presets()
    if name not in presets:
        raise IcdtuneError(f'{stage} has no preset "{name}". It has: {", ".join(presets)}')
    own: dict[str, Any] = presets[name][stage]
    return own | given


@functools.cache
def read_presets() -> dict[str, dict[str, Any]]:
    """Name -> its source and the options of each stage."""
    path = files("icdtune").joinpath("presets", "posttrain.yaml")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name: value for name, value in content.items() if not name.startswith("_")}
