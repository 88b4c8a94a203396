"""How a file is trained: what its plan freezes, and what may change from one attempt to the next."""

import os
from dataclasses import dataclass, field

from thirdshift.config import less_than, none_of, refuse

SCHEDULES = ("cosine", "linear", "constant")
OPTIMIZERS = ("fused", "foreach", "plain")
ATTENTIONS = ("sdpa", "eager")
LAYOUTS = ("packed", "buckets", "alone")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanSettings:
    """Everything that decides a number of the result; frozen in the plan when a file is claimed."""

    epochs: int = 2
    """Times that every row is trained."""

    batch_size: int = 16
    """Rows of one optimizer step."""

    micro_batch_size: int = 8
    """Rows that go through the model at once, at most; smaller needs less memory, the gradient is the same. When memory
    does not suffice it is halved from the step on that failed."""

    layout: str = field(default="packed", metadata={"choices": LAYOUTS})
    """How rows lie beside each other: "packed" end to end, in "buckets" of like length, or each "alone". A model that
    would read rows otherwise than each alone gets the next slower layout."""

    precision: str = field(default="auto", metadata={"choices": PRECISIONS})
    """"fp32", "bf16", "fp16", or "auto": what the hardware does best. Weights and optimizer are always fp32."""

    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: about a third slower, and much less memory."""

    learning_rate: float = 3e-3
    """Highest learning rate; the default suits the tiny model (a billion parameters want about 1e-5)."""

    schedule: str = field(default="cosine", metadata={"choices": SCHEDULES})
    """After the warm-up: "cosine" or "linear" down to ``final_fraction``, or "constant"."""

    warmup_steps: int = 20
    """Optimizer steps in which the learning rate rises from zero; at most a tenth of all steps is used."""

    final_fraction: float = 0.0
    """Share of the learning rate that is left at the last step."""

    weight_decay: float = 0.01
    """Decoupled weight decay of matrices; vectors (norms, biases) are not decayed."""

    beta1: float = 0.9
    """Decay of AdamW's mean of gradients."""

    beta2: float = 0.95
    """Decay of AdamW's mean of squared gradients."""

    clip_norm: float = 1.0
    """Gradients longer than this are shortened to it; 0 leaves them as they are."""

    max_context: int = 512
    """Tokens of a row; the model's own limit counts when it is lower."""

    held_out_percent: float = 5.0
    """Percent of the file's different questions that are kept for the examination and never trained; 0 for none."""

    held_out_limit: int = 64
    """At most so many examples are held out."""

    replay_percent: float = 5.0
    """Rows of earlier files that are trained again beside a file's own, against forgetting, in percent of its rows; 0
    for none."""

    replay_keep: int = 1000
    """Rows of a file, at most, that are kept in the history for later files to replay."""

    threads: int = min(2, os.cpu_count() or 1)
    """Threads of torch; another number may give other last bits, so it is part of the plan."""

    optimizer_implementation: str = field(default="fused", metadata={"choices": OPTIMIZERS})
    """AdamW's loop: "fused", "foreach" or "plain"; they differ in speed and in the last bits."""

    attention: str = field(default="sdpa", metadata={"choices": ATTENTIONS})
    """Attention of transformers: "sdpa" or "eager"."""

    def __post_init__(self) -> None:
        refuse(
            less_than(1, epochs=self.epochs, batch_size=self.batch_size, micro_batch_size=self.micro_batch_size),
            less_than(1, max_context=self.max_context, threads=self.threads),
            less_than(0, learning_rate=self.learning_rate, warmup_steps=self.warmup_steps, clip_norm=self.clip_norm),
            less_than(0, held_out_percent=self.held_out_percent, held_out_limit=self.held_out_limit),
            less_than(0, replay_percent=self.replay_percent, replay_keep=self.replay_keep),
            none_of("layout", self.layout, LAYOUTS),
            none_of("precision", self.precision, PRECISIONS),
            none_of("schedule", self.schedule, SCHEDULES),
            none_of("optimizer_implementation", self.optimizer_implementation, OPTIMIZERS),
            none_of("attention", self.attention, ATTENTIONS),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSettings(PlanSettings):
    """The plan's settings, and those that may change between two attempts without changing the result."""

    checkpoint_interval_s: float = 20.0
    """Seconds of training between two checkpoints; what a crash can cost at most."""

    checkpoint_steps: int = 0
    """Also a checkpoint after so many optimizer steps; 0 for none."""

    keep_checkpoints: int = 2
    """Newest checkpoints that stay; older ones go, but never the last one that verifies."""

    evaluation_limit: int = 256
    """Examples of each held-out file that are asked."""

    evaluation_batch_size: int = 64
    """Questions that are answered at once."""

    evaluation_answer_limit: int = 256
    """Answers of more tokens are not asked for: they count in an examination's loss, and not in its exact match."""

    earlier_files: int = 8
    """Newest earlier files whose examinations are held again before and after each file; 0 for none."""

    earlier_rows: int = 64
    """Questions of each of them that are asked, at most."""

    worst_match_fall: float = 10.0
    """Points of exact match that an earlier file's examination may lose, beyond chance, before the new file is held
    back; 100 never holds one back."""

    worst_loss_growth: float = 50.0
    """Percent by which the loss of an earlier examination may grow where exact match says nothing (fewer than 8 right
    answers before)."""

    def __post_init__(self) -> None:
        PlanSettings.__post_init__(self)  # super() without arguments does not work in a class with slots
        refuse(
            less_than(0, checkpoint_interval_s=self.checkpoint_interval_s, checkpoint_steps=self.checkpoint_steps),
            less_than(1, keep_checkpoints=self.keep_checkpoints, evaluation_batch_size=self.evaluation_batch_size),
            less_than(1, evaluation_answer_limit=self.evaluation_answer_limit, earlier_rows=self.earlier_rows),
            less_than(0, earlier_files=self.earlier_files, worst_match_fall=self.worst_match_fall),
            less_than(0, worst_loss_growth=self.worst_loss_growth),
        )
