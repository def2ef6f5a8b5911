"""OEU as a method among the others, its ablations, and the classes of OEU that take other steps."""

from dataclasses import replace

import torch
from torch.nn import functional

from .. import boundary, distributed
from ..core.unlearner import StepReport
from ..data.samples import other_labels
from ..distributed import ParallelOEU
from ..passes import class_logits, undone_on_error
from .method import Method, check_batches


class JointOEU(ParallelOEU):
    """OEU that passes both batches in one, which BatchNorm then normalizes together. It saves no time.

    Arguments as `OEU`; forget and retain inputs have one sample shape.
    """

    def gradients(self, parameters, forget_inputs, retain_inputs, retain_labels):
        """As `OEU.gradients`, of one forward pass."""
        forget_logits, retain_logits = self.logits(forget_inputs, retain_inputs)
        forget_loss, entropy = self.losses_of_forget(forget_logits)
        retain_loss = self.loss_of_retain(retain_logits, retain_labels)
        g_f = self.differentiate(forget_loss, list(parameters.values()), keep_graph=True)
        g_r = self.differentiate(retain_loss, list(parameters.values()))
        return torch.stack([forget_loss.detach(), retain_loss.detach(), entropy]), g_f, g_r

    def logits(self, forget_inputs, retain_inputs):
        """What the model makes of both batches, passed as one."""
        if forget_inputs.shape[1:] != retain_inputs.shape[1:]:
            raise ValueError(
                f"forget_inputs must have the sample shape of retain_inputs for a joint forward, "
                f"{tuple(retain_inputs.shape[1:])}, got {tuple(forget_inputs.shape[1:])}"
            )
        both = torch.cat([forget_inputs, retain_inputs])
        return class_logits(self.model, both).split([len(forget_inputs), len(retain_inputs)])


class ConflictOEU(ParallelOEU):
    """OEU that projects only where the gradients conflict: a layer with <g_f, g_r> >= 0 keeps its forget gradient.

    Arguments as `OEU`.
    Source: the rule of PCGrad (Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020), layer by layer.
    """

    def project(self, parameters, g_f, g_r, layers, angles):
        """As `OEU.project`, but for layers where the gradients agree."""
        agree = angles[0].to(g_f[0].device) >= 0
        projected = super().project(parameters, g_f, g_r, layers, angles)
        return [torch.where(agree[i], f, p) for i, f, p in zip(layers.ids, g_f, projected)]


class ForgetOnlyOEU(ParallelOEU):
    """OEU without its retain term, d = beta g_perp: the one step of which Theorem 4.3 speaks as a whole.

    Arguments as `OEU`.
    """

    def plan(self, forget_inputs, retain_inputs, retain_labels):
        """As `OEU.plan`, with another direction."""
        plan = super().plan(forget_inputs, retain_inputs, retain_labels)
        return replace(plan, direction={name: self.beta * g for name, g in plan.projected_grads.items()})


FORMS = {"separate": ParallelOEU, "joint": JointOEU, "under conflict": ConflictOEU, "forget only": ForgetOnlyOEU}


class OrthogonalEntropy(Method):
    """OEU: raise the entropy of the forget predictions, at right angles to what the retain set needs.

    Update: SGD along g_r + w g_perp, g_perp the gradient of -mean H(p(x_f)) with its component along g_r removed layer
    by layer (`oeu_ref.core.unlearner.OEU`, whose beta is w); forget labels are not used. form: a key of
    FORMS, that class of OEU takes the steps; options: its.  Steps return its `StepReport`.  With a stop rule the loop
    ends early: pass `EntropyStop(...).reached` as `stop`.
    Source: arXiv 2602.00567.
    """

    Report = StepReport

    def __init__(self, model, forget, settings, generator, form="separate", **options):
        super().__init__(model, forget, settings, generator)
        make = FORMS[boundary.one_of("form", form, tuple(FORMS))]
        self.oeu = make(model, self.optimizer, beta=settings.weight, **options)

    def step(self, forget, retain):
        check_batches(forget, retain)
        forget, retain = distributed.shard(forget), distributed.shard(retain)
        with undone_on_error(self.model, self.generator):
            return self.oeu.step(forget.inputs, retain.inputs, retain.labels)


class OrthogonalRandomLabels(OrthogonalEntropy):
    """Ablation of OEU: random wrong labels in place of entropy, everything else as it is.

    Update: SGD along g_r + w g_perp, g_perp the gradient of CE(x_f, y'), y' as in `RandomLabels`, with its component
    along g_r removed layer by layer. options: as in `OrthogonalEntropy`.  Steps return its `StepReport`.
    Source: the ablation of arXiv 2602.00567 that takes the entropy out.
    """

    def __init__(self, model, forget, settings, generator, **options):
        super().__init__(model, forget, settings, generator, forget_loss=self._teach_wrong_labels, **options)

    def step(self, forget, retain):
        self._forget_labels = forget.labels
        return super().step(forget, retain)

    def _teach_wrong_labels(self, logits):
        wrong = other_labels(self._forget_labels, logits.shape[1], self.generator)
        return functional.cross_entropy(logits, distributed.shard(wrong))
