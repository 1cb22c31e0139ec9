"""Presets of whole ladders: every one is a set of options that the stages take."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from icdtune.coders.base import all_options, coder_class, make_coder
from icdtune.errors import IcdtuneError
from icdtune.options import check_options
from icdtune.posttrain.presets import read_presets

STAGES = ("sft", "grpo", "phi")
LADDERS = [
    f"{model}-{corpus}-{labels}"
    for model in ("qwen2.5-1.5b", "qwen3-4b")
    for corpus in ("mimic3", "mimic4")
    for labels in ("top50", "full")
]


def test_there_is_one_for_every_model_corpus_and_label_space() -> None:
    wanted = {f"{kind}-{ladder}" for kind in ("paper", "fast") for ladder in LADDERS}
    assert set(read_presets()) == wanted | {"laptop"}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", [f"{kind}-{x}" for kind in ("paper", "fast") for x in LADDERS])
def test_its_stages_take_its_options(name: str, stage: str) -> None:
    preset = read_presets()[name]
    assert preset["source"]
    start: dict[str, Any] = {} if stage == "sft" else {"start": "sft"}
    options = all_options(stage, {"preset": name, **start})
    assert check_options(coder_class(stage), options, "preset").keys() == options.keys()
    assert make_coder(stage, {"preset": name, **start})
    if stage == "sft":
        assert options["answer_budget"] == (512 if name.endswith("full") else 196)
        assert ("1.5B" in options["model"]) == ("1.5b" in name)
    else:
        assert options["visits"] == (512 if name.endswith("full") else 1024)
        assert options["group"] == 8


@pytest.mark.parametrize("ladder", LADDERS)
def test_ours_differ_from_the_studys_in_what_we_found_better(ladder: str) -> None:
    paper, fast = (read_presets()[f"{kind}-{ladder}"] for kind in ("paper", "fast"))
    assert paper["sft"] == fast["sft"] | {"scan": "truncated"}
    for stage in ("grpo", "phi"):
        assert paper[stage]["credit_weight"] == 0
        assert paper[stage]["charge_repeats"] is False
        ours = {"credit_weight": 0.5, "charge_repeats": True}
        assert fast[stage] == paper[stage] | ours


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "deepspeed-zero2"])
def test_accelerate_reads_its_configurations(name: str) -> None:
    path = files("icdtune").joinpath("presets", "accelerate", f"{name}.yaml")
    found = load_config_from_file(str(path))  # raises for a key that it does not know
    assert found.num_processes == 8
    assert found.mixed_precision == "bf16"


def test_given_options_come_first() -> None:
    name = "paper-qwen2.5-1.5b-mimic3-full"
    options = all_options("sft", {"preset": name, "model": "tiny", "epochs": 1})
    assert options["model"] == "tiny"
    assert options["epochs"] == 1
    assert options["lora_rank"] == 8
    assert "preset" not in options


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(IcdtuneError, match='grpo has no preset "paper".*It has: paper-qwen2.5'):
        make_coder("grpo", {"start": "sft", "preset": "paper"})
    with pytest.raises(IcdtuneError, match='coder "bow" has no option "preset"'):
        make_coder("bow", {"preset": "laptop"})
