"""What rollouts.py overrides in TRL is still there in the form that it was written for."""

from __future__ import annotations

import ast
import inspect
import textwrap

import pytest
from trl import GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from icdtune.posttrain.rollouts import CodeSetTrainer

FILE = "src/icdtune/posttrain/rollouts.py"
HOOKS = {
    "_generate_and_score_completions": ["self", "inputs"],
    "_generate": ["self", "prompts"],
    "_prepare_inputs": ["self", "generation_batch"],
    "_get_per_token_logps_and_entropies": [
        "self",
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
        "batch_size",
        "compute_entropy",
        "compute_aux_loss",
        "pixel_values",
        "image_grid_thw",
        "num_images",
        "pixel_attention_mask",
        "spatial_shapes",
        "num_tiles",
        "image_sizes",
        "token_type_ids",
        "mm_token_type_ids",
        "image_position_ids",
    ],
}
ANSWERED = [
    "prompt_ids",
    "completion_ids",
    "tool_mask",
    "completions",
    "logprobs",
    "extra_fields",
    "images",
    "tool_images",
]
"""What `_generate` gives back, in TRL's own names."""
RELIED_ON = {
    "_prepare_inputs": [
        "self._buffered_inputs",
        "self._step",
        "self.num_iterations",
        "self.args.steps_per_generation",
        "shuffle_sequence_dict",
        "split_tensor_dict",
    ],
    "_generate_and_score_completions": ["self._generate(", 'x["prompt"] for x in inputs'],
    "_generate": ["self._metrics[mode]", "self.state.num_input_tokens_seen"],
    "_get_per_token_logps_and_entropies": ["self.accelerator.autocast()"],
    "_get_train_sampler": ["mini_repeat_count=self.num_generations", "self.shuffle_dataset"],
}
"""What the overrides take for granted in TRL's own text."""


def source(name: str) -> str:
    """A method of TRL's trainer without its decorators' wrapping."""
    return textwrap.dedent(inspect.getsource(inspect.unwrap(getattr(GRPOTrainer, name))))


def returned(name: str) -> list[ast.expr]:
    return [
        node.value
        for node in ast.walk(ast.parse(source(name)))
        if isinstance(node, ast.Return) and node.value is not None
    ]


def test_nothing_private_is_overridden_but_what_is_checked_here() -> None:
    private = {name for name in vars(CodeSetTrainer) if hasattr(GRPOTrainer, name)}
    private = {name for name in private if name.startswith("_") and not name.startswith("__")}
    assert private == set(HOOKS), f"{FILE} overrides other hooks than test_hooks.py checks"


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_takes_what_it_took(name: str) -> None:
    method = getattr(GRPOTrainer, name, None)
    assert method is not None, f"TRL has no {name} any more: rewrite its override in {FILE}"
    found = list(inspect.signature(method).parameters)
    assert found == HOOKS[name], f"TRL's {name} takes other arguments: adapt {FILE}"


@pytest.mark.parametrize("name", HOOKS)
def test_an_override_takes_every_argument_that_trl_may_pass(name: str) -> None:
    own = inspect.signature(getattr(CodeSetTrainer, name))
    positional = [p for p in HOOKS[name] if p != "self"]
    bound = own.bind(None, **dict.fromkeys(positional))
    assert bound.arguments, f"{FILE}: {name} refuses an argument of TRL's"


def test_generate_gives_eight_things_back() -> None:
    message = f"TRL's _generate gives other things back: adapt the tuple in {FILE}"
    (value,) = returned("_generate")
    assert isinstance(value, ast.Tuple), message
    assert [ast.unparse(item) for item in value.elts] == ANSWERED, message
    calls = [
        node.targets[0]
        for node in ast.walk(ast.parse(source("_generate_and_score_completions")))
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("self._generate(")
    ]
    assert len(calls) == 1, message
    assert isinstance(calls[0], ast.Tuple), message
    assert len(calls[0].elts) == len(ANSWERED), message


def test_log_probabilities_come_with_entropies_and_auxiliary_loss() -> None:
    message = f"TRL's log-probability hook gives other things back: adapt {FILE}"
    (value,) = returned("_get_per_token_logps_and_entropies")
    assert isinstance(value, ast.Tuple), message
    assert len(value.elts) == 3, message


@pytest.mark.parametrize(
    ("name", "text"), [(n, t) for n, texts in RELIED_ON.items() for t in texts]
)
def test_trl_still_does_what_the_overrides_rely_on(name: str, text: str) -> None:
    assert text in source(name), f"TRL's {name} no longer says {text!r}: read {FILE} again"


def test_a_batch_is_split_into_equal_parts_in_order() -> None:
    import torch

    parts = split_tensor_dict({"rows": torch.arange(6), "none": None}, 3)
    found = [part["rows"].tolist() for part in parts]
    assert found == [[0, 1], [2, 3], [4, 5]], f"TRL splits batches otherwise: adapt {FILE}"
