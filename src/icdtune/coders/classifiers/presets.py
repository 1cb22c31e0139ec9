"""Settings of a classifier: a preset's, with what the user gave in its place."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from icdtune.data.schema import first_problem
from icdtune.errors import IcdtuneError


class Settings(BaseModel):
    """How a classifier is built and trained.

    Attributes:
        source: where a preset's numbers come from.
        epochs: over the training notes.
        learning_rate: peak; linear warm-up, then linear to zero.
        head_learning_rate: of the label attention, where an encoder that is trained already needs a
            lower one than what begins at random; None is `learning_rate`.
        warmup: updates of the warm-up; at most a tenth of all.
        weight_decay: of AdamW.
        batch: notes an update.
        micro_batch: notes a forward pass: bounds the memory.
        max_tokens: words or word pieces of a note that are read.
        min_count: least training notes of a word in the vocabulary.
        word2vec: begin with word2vec of the training notes.
        prior_bias: begin with each label's log-odds in training as its bias, so that no update is
            spent on learning how rare it is; published settings begin at zero.
        shape: of the network, see its configuration.
    """

    model_config = ConfigDict(extra="forbid")

    source: str = ""
    epochs: float = Field(20, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    head_learning_rate: float | None = Field(None, gt=0)
    warmup: int = Field(2000, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    batch: int = Field(8, ge=1)
    micro_batch: int = Field(8, ge=1)
    max_tokens: int = Field(4000, ge=1)
    min_count: int = Field(3, ge=1)
    word2vec: bool = True
    prior_bias: bool = False
    shape: dict[str, Any] = {}


def load_preset(model: str, name: str, given: Mapping[str, Any]) -> Settings:
    """The settings of a model's preset; values of `given` that are not None take their place.

    Raises IcdtuneError for an unknown preset.
    """
    path = files("icdtune").joinpath("presets", "classifiers", f"{model}.yaml")
    presets = yaml.safe_load(path.read_text(encoding="utf-8"))
    if name not in presets:
        raise IcdtuneError(f'{model} has no preset "{name}". It has: {", ".join(presets)}')
    values = presets[presets[name]] if isinstance(presets[name], str) else presets[name]
    own = {key: value for key, value in given.items() if value is not None}
    shape = values.get("shape", {}) | own.pop("shape", {})
    try:
        return Settings.model_validate(values | own | {"shape": shape})
    except ValidationError as error:
        raise IcdtuneError(f'{model} preset "{name}": {first_problem(error)}. Correct it') from None
