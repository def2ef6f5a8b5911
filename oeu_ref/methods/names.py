"""What each method is called, and which make up which table. Nothing here imports PyTorch: --help is instant."""

METHODS = {
    "oeu": "OEU",
    "ft": "FT (fine-tuning)",
    "ga": "GA (gradient ascent)",
    "rl": "RL (random labels)",
    "salun": "SalUn",
    "qmul": "Q-MUL (our reading)",
    "l1": "l1-sparse",
    "oeu_stop": "OEU + stop rule",
    "oeu_no_projection": "OEU without projection",
    "oeu_global": "OEU, global projection",
    "oeu_random_labels": "OEU, random labels for entropy",
    "l1_fading": "l1-sparse, fading",
    "qmul_released": "Q-MUL, weights as released",
    "oeu_conflict": "OEU, projection only under conflict",
    "oeu_forget_only": "OEU, forget-only steps",
    "uniform": "uniform target (PPU, our reading)",
    "ng_plus": "NG+",
    "scrub": "SCRUB (our reading)",
    "lotus": "LoTUS (our reading)",
}
LABELS = {"original": "original", "retrain": "Retrain", **METHODS}
BASELINES = ("oeu", "ft", "ga", "rl", "salun", "qmul", "l1")
ABLATIONS = ("oeu", "oeu_stop", "oeu_no_projection", "oeu_global", "oeu_random_labels")
# as their authors' code has it, and not in the tables unless asked for
RELEASED = ("l1_fading", "qmul_released")
# later methods of the field, in the table of `replicate`
RIVALS = ("uniform", "ng_plus", "scrub", "lotus")
# what else there is of projection: `ablation --methods`, with settings of a search of your own
PROJECTIONS = ("oeu", "oeu_no_projection", "oeu_global", "oeu_conflict", "oeu_forget_only")
# those of the demo
DEMO = ("oeu", "oeu_stop", "ft", "ga", "rl", "salun", "qmul")
# rows of `replicate`, the most worth first
REPLICATED = (
    "oeu",
    "qmul",
    "oeu_short",
    "oeu_global",
    "ft",
    "rl",
    "salun",
    "ga",
    "l1",
    "oeu_no_projection",
    *RIVALS,
)
