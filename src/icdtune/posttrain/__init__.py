"""Post-training: supervised fine-tuning, reinforcement with a code-set reward, hint curricula."""

from icdtune.coders import CODERS

STAGES = {
    "sft": "icdtune.posttrain.sft:SFT",
    "grpo": "icdtune.posttrain.grpo:GRPO",
    "phi": "icdtune.posttrain.phi:PHI",
}
"""Stage name -> "module:class"; a stage is trained like any coder, and leaves one."""

CODERS.update(STAGES)
