"""Rollouts: whole groups, one hint a group, rewards against the full gold, exact gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOTrainer

from icdtune.coders.generative import GenerativeCoder
from icdtune.coders.training import arguments, run
from icdtune.data.labels import Task
from icdtune.posttrain.credit import FLOOR, Objective
from icdtune.posttrain.curriculum import Visit
from icdtune.posttrain.grpo import Update, titles
from icdtune.posttrain.reward import Reward
from icdtune.posttrain.rollouts import CodeSetTrainer, Plan, grpo_config
from icdtune.prompts.answer import parse_answer
from icdtune.prompts.hints import render_hint

GROUP = 3
VISITS = 4
PLAIN = {"credit_weight": 0.0}
MARK = render_hint(["A00.0"], lambda code: "").splitlines()[0]


class Recorded(CodeSetTrainer):
    """Keeps what it generated, rewarded and trained on."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.steps: list[tuple[list[Visit], list[list[int]], list[str]]] = []
        self.rewarded: list[tuple[list[str], list[float]]] = []
        self.parts: list[dict[str, Any]] = []
        super().__init__(*args, **options)

    def _generate(self, prompts: list[Any]) -> Any:
        found = super()._generate(prompts)
        self.steps.append((list(self._current), found[0], found[3]))
        return found

    def _reward(self, completions: list[str], **columns: Any) -> list[float]:
        rewards = super()._reward(completions, **columns)
        self.rewarded.append((list(completions), rewards))
        return rewards

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        part = super()._prepare_inputs(generation_batch)
        self.parts.append(part)
        return part


def trainer(
    tuned: Path,
    task: Task,
    plan: Plan,
    work: Path,
    micro: int = 2,
    rate: float = 1e-3,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> Recorded:
    coder = GenerativeCoder.load(tuned)
    torch.manual_seed(1)
    common = arguments(work, 1, 2, 100, bf16=False)
    update = Update(visits=VISITS, group=GROUP, micro_groups=micro, **(settings or PLAIN))
    config = grpo_config(common, update, rate)
    objective = Objective(Reward(beta=update.beta), update.credit, update.credit_weight)
    return Recorded(coder, plan, titles(task), config, VISITS, objective, **options)


def hinted_plan(task: Task) -> Callable[[int], Sequence[Visit]]:
    """Every other visit shows its note's first code; notes have at least two."""
    notes = [note for note in task.notes("train") if len(note.codes or ()) > 1]
    assert len(notes) >= 2 * VISITS

    def plan(step: int) -> list[Visit]:
        chosen = notes[step * VISITS : (step + 1) * VISITS]
        return [Visit(n, (n.codes or ())[:1] if i % 2 else ()) for i, n in enumerate(chosen)]

    return plan


@pytest.fixture(scope="module")
def recorded(tuned: Path, small_task: Task, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Two steps of a plan with hints, two groups a backward pass."""
    work = tmp_path_factory.mktemp("recorded")
    made = trainer(tuned, small_task, hinted_plan(small_task), work)
    run(made, work, "Test")
    return made


def test_every_answer_of_a_group_was_given_to_the_same_hint(
    recorded: Recorded, small_task: Task
) -> None:
    plan = hinted_plan(small_task)
    tokenizer = recorded.processing_class
    assert len(recorded.steps) == 2
    for step, (visits, prompt_ids, _) in enumerate(recorded.steps):
        planned = plan(step)
        assert visits == planned
        for place, visit in enumerate(planned):
            group = prompt_ids[place * GROUP : (place + 1) * GROUP]
            assert group == [group[0]] * GROUP
            text = tokenizer.decode(group[0])
            hint = render_hint(visit.hint, titles(small_task))
            assert (MARK in text) == bool(visit.hint)
            assert hint in text
            assert len(group[0]) <= 192
        assert len({tuple(ids) for ids in prompt_ids}) == VISITS


def test_the_reward_is_the_f1_with_the_full_gold_whatever_was_hinted(
    recorded: Recorded, small_task: Task
) -> None:
    systems = small_task.corpus.info.code_systems
    seen: set[float] = set()
    for (visits, _, completions), (texts, rewards) in zip(
        recorded.steps, recorded.rewarded, strict=True
    ):
        assert texts == completions
        gold = [visit.note.codes or () for visit in visits for _ in range(GROUP)]
        expected = [
            Reward().score(set(parse_answer(text, systems).codes), set(codes))
            for text, codes in zip(texts, gold, strict=True)
        ]
        assert rewards == expected
        seen.update(rewards)
    assert len(seen) > 2  # some answers are better than others


def test_groups_stay_whole_in_every_backward_pass(recorded: Recorded) -> None:
    """Advantages of a group sum to nothing, and its rows share their prompt."""
    assert len(recorded.parts) == 2 * VISITS // 2
    for part in recorded.parts:
        assert len(part["prompt_ids"]) == 2 * GROUP
        for start in (0, GROUP):
            rows = slice(start, start + GROUP)
            assert len(part["prompt_ids"][rows].unique(dim=0)) == 1
            assert float(part["advantages"][rows].sum()) == pytest.approx(0, abs=1e-4)
    assert any(part["advantages"].abs().max() > 0.1 for part in recorded.parts)


@pytest.mark.parametrize("rank", [0, 4])
def test_log_probabilities_are_those_of_trl(
    recorded: Recorded, tuned: Path, small_task: Task, tmp_path: Path, rank: int
) -> None:
    from icdtune.coders.training import lora

    made = trainer(
        tuned,
        small_task,
        hinted_plan(small_task),
        tmp_path,
        peft_config=lora(rank, rank) if rank else None,
    )
    part = recorded.parts[0]
    ids = torch.cat([part["prompt_ids"], part["completion_ids"]], 1)
    mask = torch.cat([part["prompt_mask"], part["completion_mask"]], 1)
    answered = part["completion_mask"].bool()
    assert not part["prompt_mask"].all() or not answered.all()
    arguments_ = (made.model, ids, mask, answered.shape[1])
    own, own_entropy, auxiliary = made._get_per_token_logps_and_entropies(
        *arguments_, compute_entropy=True
    )
    theirs, their_entropy, _ = GRPOTrainer._get_per_token_logps_and_entropies(
        made, *arguments_, compute_entropy=True
    )
    assert auxiliary is None
    torch.testing.assert_close(own[answered], theirs[answered], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own_entropy[answered], their_entropy[answered], rtol=1e-4, atol=1e-4)
    gradients = []
    weights = torch.linspace(-1, 1, len(ids))[:, None]
    for values in (own, theirs):
        made.model.zero_grad()
        (values * answered * weights).sum().backward()
        trained = [p.grad.flatten() for p in made.model.parameters() if p.grad is not None]
        gradients.append(torch.cat(trained))
    assert gradients[1].norm() > 1e-3
    assert (gradients[0] - gradients[1]).norm() < 1e-4 * gradients[1].norm()


def test_a_step_makes_better_answers_likelier_and_worse_ones_less_so(
    tuned: Path, small_task: Task, tmp_path: Path
) -> None:
    plan = hinted_plan(small_task)
    made = trainer(tuned, small_task, plan, tmp_path, micro=VISITS, rate=1e-5)

    run(made, tmp_path, "Test")
    fresh = GenerativeCoder.load(tuned)
    part = made.parts[1]  # the warm-up's first step has a rate of 0
    ids = torch.cat([part["prompt_ids"], part["completion_ids"]], 1)
    mask = torch.cat([part["prompt_mask"], part["completion_mask"]], 1)
    width = part["completion_ids"].shape[1]
    with torch.no_grad():
        before, *_ = made._get_per_token_logps_and_entropies(fresh.model, ids, mask, width)
        later, *_ = made._get_per_token_logps_and_entropies(made.model, ids, mask, width)
    change = ((later - before) * part["completion_mask"]).sum(1)
    assert float((change * part["advantages"]).sum()) > 1e-3


CREDITS = [
    {"credit_weight": 1.0},
    {"credit_weight": 0.5},
    {"credit_weight": 0.5, "credit": "to-go", "beta": 2.0},
]


@pytest.mark.parametrize("settings", CREDITS)
def test_credit_stands_on_the_tokens_that_were_sampled(
    tuned: Path, small_task: Task, tmp_path: Path, settings: dict[str, Any]
) -> None:
    plan = hinted_plan(small_task)
    made = trainer(tuned, small_task, plan, tmp_path, rate=1e-5, settings=settings)
    run(made, tmp_path, "Test")
    largest: list[float] = []
    idle: list[float] = []
    for first in range(0, len(made.parts), 2):
        parts = made.parts[first : first + 2]
        advantages = torch.cat([part["advantages"] for part in parts])
        answered = torch.cat([part["completion_mask"] for part in parts]).bool()
        assert advantages.shape == answered.shape == (VISITS * GROUP, answered.shape[1])
        largest.append(float(advantages[answered].abs().max()))
        idle.append(float((advantages.view(VISITS, -1) == 0).all(1).float().mean()))
        if settings["credit_weight"] == 1.0:  # padding has a group's share alone
            assert not advantages[~answered].any()
    assert max(largest) > 0.1  # a step may have nothing to tell its answers apart
    curve = [row for row in made.state.log_history if "loss" in row]
    assert max(row["credit_rms"] for row in curve) > FLOOR
    assert [row["frac_advantage_zero"] for row in curve] == pytest.approx(idle)


def test_code_credit_alone_moves_good_codes_up_and_bad_ones_down(
    tuned: Path, small_task: Task, tmp_path: Path
) -> None:
    settings = {"credit_weight": 1.0}
    made = trainer(tuned, small_task, hinted_plan(small_task), tmp_path, VISITS, 1e-5, settings)
    run(made, tmp_path, "Test")
    part = made.parts[1]
    ids = torch.cat([part["prompt_ids"], part["completion_ids"]], 1)
    mask = torch.cat([part["prompt_mask"], part["completion_mask"]], 1)
    width = part["completion_ids"].shape[1]
    fresh = GenerativeCoder.load(tuned)
    with torch.no_grad():
        before, *_ = made._get_per_token_logps_and_entropies(fresh.model, ids, mask, width)
        later, *_ = made._get_per_token_logps_and_entropies(made.model, ids, mask, width)
    change = (later - before) * part["completion_mask"]
    assert float((change * part["advantages"]).sum()) > 1e-3


def test_answers_sampled_in_parts_are_those_sampled_together(
    tuned: Path, small_task: Task, tmp_path: Path
) -> None:
    found = []
    for place, batch_tokens in enumerate((None, 1)):  # all together, and one note at a time
        made = trainer(tuned, small_task, hinted_plan(small_task), tmp_path / str(place))
        settings = made._coder.settings
        made._coder.settings = settings.model_copy(update={"batch_tokens": batch_tokens})
        run(made, tmp_path / str(place), "Test")
        found.append([texts for _, _, texts in made.steps])
    assert found[0] == found[1]


def test_answers_serve_several_updates_and_ratios_are_clipped(
    tuned: Path, small_task: Task, tmp_path: Path
) -> None:
    """Two updates of one batch: ratios are 1 in the first, and leave a narrow clip in the second."""
    settings = PLAIN | {"iterations": 2, "clip": 1e-4, "clip_high": 2e-4}
    made = trainer(
        tuned, small_task, hinted_plan(small_task), tmp_path, rate=1e-2, settings=settings
    )
    made.args.warmup_steps = 0
    run(made, tmp_path, "Test")
    assert len(made.steps) == 1
    assert len(made.parts) == 4
    assert made.parts[0] is made.parts[2]
    assert "old_per_token_logps" in made.parts[0]
    first, second = (row for row in made.state.log_history if "loss" in row)
    assert first["clip_ratio/region_mean"] == 0
    assert second["clip_ratio/region_mean"] > 0.1


def test_one_ratio_for_an_answer_weighs_answers_alike(
    tuned: Path, small_task: Task, tmp_path: Path
) -> None:
    """The gradient is that of the mean over answers of advantage x mean log-probability."""
    settings = PLAIN | {"importance": "sequence"}
    made = trainer(tuned, small_task, hinted_plan(small_task), tmp_path, VISITS, 0.0, settings)
    run(made, tmp_path, "Test")
    part = next(part for part in made.parts if part["advantages"].any())
    ids = torch.cat([part["prompt_ids"], part["completion_ids"]], 1)
    mask = torch.cat([part["prompt_mask"], part["completion_mask"]], 1)
    answered = part["completion_mask"]

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        made.model.zero_grad()
        loss.backward()
        return torch.cat([p.grad.flatten() for p in made.model.parameters() if p.grad is not None])

    own = gradient(made._compute_loss(made.model, part))
    values, *_ = made._get_per_token_logps_and_entropies(made.model, ids, mask, answered.shape[1])
    means = (values * answered).sum(1) / answered.sum(1)
    wanted = gradient(-(part["advantages"] * means).mean())
    assert wanted.norm() > 1e-4
    assert (own - wanted).norm() < 1e-4 * wanted.norm()


def test_a_visit_that_teaches_nothing_gives_its_place_to_another(
    tuned: Path, small_task: Task, tmp_path: Path
) -> None:
    """At a low temperature answers are alike; those that differ keep their place and stay."""
    plan = hinted_plan(small_task)
    notes = [visit.note for step in (0, 1) for visit in plan(step)]
    others = [Visit(note) for note in notes]
    found = []
    for refill in (0, 1):
        work = tmp_path / str(refill)
        settings = PLAIN | {"temperature": 0.4}
        options = {"refill": refill, "others": lambda step: others}
        made = trainer(tuned, small_task, plan, work, VISITS, 0.0, settings, **options)
        run(made, work, "Test")
        found.append(made)
    kept = replaced = 0
    for before, after, (visits, _, texts), (visits_2, _, texts_2) in zip(
        found[0].parts, found[1].parts, found[0].steps, found[1].steps, strict=True
    ):
        idle = (before["advantages"].view(VISITS, GROUP) == 0).all(1).tolist()
        for place in range(VISITS):
            rows = slice(place * GROUP, (place + 1) * GROUP)
            if idle[place]:
                replaced += 1
                assert visits_2[place] in others
                assert visits_2[place].note.note_id != visits[place].note.note_id
            else:
                kept += 1
                assert visits_2[place] == visits[place]
                assert texts_2[rows] == texts[rows]
                assert torch.equal(after["advantages"][rows], before["advantages"][rows])
    assert kept
    assert replaced
    asked = [sum(r["prompt_tokens"] for r in m.state.log_history if "loss" in r) for m in found]
    assert asked[1] > asked[0]  # what was thrown away is counted


def test_what_ends_a_run_is_asked_of_the_checkpoints_weights(
    tuned: Path, small_task: Task, tmp_path: Path
) -> None:
    """PHI predicts its notes to know whether a round follows: with the weights that were trained."""
    first = trainer(tuned, small_task, hinted_plan(small_task), tmp_path, rate=1e-2)
    run(first, tmp_path, "Test")
    trained = {name: value.clone() for name, value in first.model.state_dict().items()}
    again = trainer(tuned, small_task, hinted_plan(small_task), tmp_path, rate=1e-2)
    again.args.max_steps = 4
    asked: list[int] = []

    def finished(step: int) -> bool:
        asked.append(step)
        torch.testing.assert_close(again.model.state_dict(), trained)
        return True

    assert any((value != trained[name]).any() for name, value in again.model.state_dict().items())
    run(again, tmp_path, "Test", finished)
    assert asked == [2]
