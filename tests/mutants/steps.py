"""Wrong OEU steps: each is `right_step.py` with one edit, and words by which the report must name what was found."""

from dataclasses import dataclass

from . import edited, source

SOURCE = source("right_step.py")


@dataclass(frozen=True)
class WrongStep:
    """One mistake. name; words: of the failing law's message; old, new: the text that is replaced, and by what."""

    name: str
    words: str
    old: str
    new: str

    def build(self):
        """The class.  Raises as `edited`."""
        return edited(SOURCE, self).OEU


FORGET = "        g_f = torch.autograd.grad(forget_loss, parameters)\n"
LOSS = "        forget_loss = (log_p.exp() * log_p).sum(1).mean()\n"
RETAIN = (
    "        logits = self.model(retain_inputs)\n"
    "        g_r = torch.autograd.grad(functional.cross_entropy(logits, retain_labels), parameters)\n"
)
PASS = "        log_p = self.model(forget_inputs).log_softmax(1)\n"
OPTIONS = 'alpha=1.0, beta=1.0, granularity="layer", rescale="undo"'
ALL = 'parameters = [p for group in self.optimizer.param_groups for p in group["params"]]'
WRONG_STEPS = [
    WrongStep("eval_mode", "BatchNorm in eval mode", "self.model.train()", "self.model.eval()"),
    WrongStep("retain_first", "running", PASS + LOSS + FORGET + RETAIN, RETAIN + PASS + LOSS + FORGET),
    WrongStep(
        "log_of_softmax",
        "not finite",
        "log_p = self.model(forget_inputs).log_softmax(1)",
        "log_p = self.model(forget_inputs).softmax(1).log()",
    ),
    WrongStep("zero_over_zero", "not finite", "if length == 0 or r.norm() == 0:", "if length == 0:"),
    WrongStep("one_pass", "cosine", "left = left - (left @ unit - (1 - self.alpha) * along) * unit", "pass"),
    WrongStep("no_threshold", "4.bias", "if left.norm() < 1e-12 * length:", "if left.norm() == 0:"),
    WrongStep("default_beta", "beta = 0.5", OPTIONS, OPTIONS.replace("beta=1.0", "beta=0.5")),
    WrongStep("default_rescale", "match", OPTIONS, OPTIONS.replace("undo", "match")),
    WrongStep("default_alpha", "alpha = 0.5", OPTIONS, OPTIONS.replace("alpha=1.0", "alpha=0.5")),
    WrongStep("swapped", "swapped", OPTIONS, 'beta=1.0, alpha=1.0, granularity="layer", rescale="undo"'),
    WrongStep("swapped_words", "position", OPTIONS, 'alpha=1.0, beta=1.0, rescale="undo", granularity="layer"'),
    WrongStep("old_grad", "added to an old .grad", "p.grad = d", "p.grad = d if p.grad is None else p.grad + d"),
    WrongStep("first_group", "no gradient for", ALL, 'parameters = self.optimizer.param_groups[0]["params"]'),
    WrongStep(
        "truncated",
        "of 8 retain samples",
        RETAIN,
        RETAIN.replace("inputs)", "inputs[: len(forget_inputs)])").replace("labels)", "labels[: len(logits)])"),
    ),
    WrongStep(
        "truncated_64",
        "of 300 retain samples",
        RETAIN,
        RETAIN.replace("inputs)", "inputs[:64])").replace("labels)", "labels[:64])"),
    ),
    WrongStep("weights_only", "no gradient for", ALL, ALL[:-1] + " if p.ndim > 1]"),
    WrongStep("no_projection", "no projection", "left = f - self.alpha * along * unit", "return f"),
    WrongStep("only_in_conflict", "agree in all layers", "if length == 0 or", "if along >= 0 or"),
    WrongStep("sign", "sign", ".sum(1).mean()", ".sum(1).neg().mean()"),
    WrongStep("sum", "beta = 5", ".sum(1).mean()", ".sum()"),
    WrongStep("retain_sum", "8 weighs the retain gradient", "retain_labels), p", 'retain_labels, reduction="sum"), p'),
    WrongStep("roles", "in place of the forget", "self.direction(g_f, g_r)", "self.direction(g_r, g_f)"),
    WrongStep("retain_weighed", "weighs the retain gradient", "r + self.beta * part", "self.beta * r + part"),
    WrongStep("uniform_labels", "uniform labels", "(log_p.exp() * log_p).sum(1).mean()", "-log_p.mean()"),
    WrongStep("softmax_twice", "softmax applied twice", ".log_softmax(1)", ".softmax(1).log_softmax(1)"),
    WrongStep(
        "joint",
        "one forward pass",
        PASS + LOSS + FORGET + RETAIN,
        "        joint = self.model(torch.cat([forget_inputs, retain_inputs]))\n"
        "        log_p, logits = joint[: len(forget_inputs)].log_softmax(1), joint[len(forget_inputs) :]\n"
        + (LOSS + FORGET).replace("parameters)", "parameters, retain_graph=True)")
        + RETAIN.partition("\n")[2],
    ),
    WrongStep("always_global", "global", 'if self.granularity == "global":', "if True:"),
    WrongStep("always_match", "match", 'if self.rescale == "match" else left', ""),
    WrongStep(
        "own_update", "called 0 times", "self.optimizer.step()", "[p.data.sub_(0.05 * p.grad) for p in parameters]"
    ),
    WrongStep("twice", "called 2 times", "self.optimizer.step()", "self.optimizer.step(), self.optimizer.step()"),
    WrongStep(
        "groups_apart",
        "global",
        'if self.granularity == "global":',
        'if self.granularity == "global" and len(self.optimizer.param_groups) == 1:',
    ),
    WrongStep(
        "batch_in_place", "batch was changed", "self.optimizer.step()", "self.optimizer.step(), forget_inputs.zero_()"
    ),
    WrongStep(
        "clipped",
        "times the step",
        "self.optimizer.step()",
        "torch.nn.utils.clip_grad_norm_(parameters, 100.0), self.optimizer.step()",
    ),
    WrongStep("projected_alone", "the projected forget gradient alone", "r + self.beta * part", "self.beta * part"),
]
