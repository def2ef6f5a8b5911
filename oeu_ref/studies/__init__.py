"""Beyond the paper: small studies, each a question with a table and a picture, `python -m oeu_ref beyond NAME`.

A study is a module of this folder, or of `audit/`, with `QUESTION`, `REPORTED_SEEDS`, `collect(seeds, config, quick,
bar)`, which measures, and `markdown(data)` and `figure(data)`, which show what a study's JSON file holds;
`lab.study.run` does the rest. Those of ON_IMAGES have `IMAGE_SEEDS` too, and go on where they were stopped: their
`collect` also takes `work`, a `lab.study.Work`.
"""

# the question that each study answers, as --help shows it; a study's module has its name, with underscores
STUDIES = {
    "integer": "what a device runs: which weight codes did unlearning change, and does the integer network forget?",
    "bits": "how do OEU, Q-MUL and random labels fare on binary, ternary, 2-, 4- and 8-bit networks?",
    "sequential": "one forget request after another: how do gaps to Retrain add up, and does the forgotten come back?",
    "first-order": "below which step does nothing move, above which does first order end, and what does curvature say?",
    "subspace": "does it help to project off the last m retain gradients instead of one?",
    "monitor": "what does each step do to both losses, and which known failure does a run head for?",
    "updates": "momentum and Adam turn an orthogonal gradient into another update: does projecting that update help?",
    "loop": "what all methods share: does a falling learning rate, or BatchNorm's statistics anew, change their order?",
    "stop": "where do stop rules end OEU, and what would the best step in hindsight have been?",
    "sensitivity": "which learning rates and betas serve OEU, and does a search without Retrain find them?",
    "any-model": "OEU on a network prepared by PyTorch's own tools, and on one that is not quantized at all",
}
ON_IMAGES = ("stop",)  # those that there are on images too
