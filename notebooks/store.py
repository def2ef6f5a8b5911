"""Keep of a result what READMEs and notebooks quote:  python notebooks/store.py RESULT.json [NAME]

RESULT.json is what a command wrote: `demo`, `variants`, `beyond NAME`, or the report.json of a table's folder. What
KEEP names is written to NAME.json, with five significant digits and no spaces, in `stored` beside this file; the demo's
in `oeu_ref/lab`.
"""

import fnmatch
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
HEAD = ("config", "seeds", "versions", "labels")  # of every result that has them
REPLICATED = ("kind|name|experiment|attack|passes|search_seed|search|trained|rows",)
# NAME: paths in a result; all that lies below is kept. Each level is a name, a pattern, or several with | between
KEEP = {
    "demo": ("*",),
    "cifar10-10-cpu": (
        "*/seeds|versions",
        "table/experiment",
        "table/original|retrain/values",
        "*/rows/*/rule|method|label|options|values",
        "table/rows/*/curve",
        "table/rows/0/cosines/*conv*|*fc*",
        "tuning/grid",
        "tuning/rules/*/*/best|median_AG|worst_AG",
    ),
    "cifar10-10-cpu-projection": (
        "ablation/seeds|versions",
        "ablation/original|retrain/values",
        "ablation/rows/*/method|label|settings|values|curve",
        "tuning/grid",
        "tuning/rules/true/*/best|best_at_end_of|median_AG",
    ),
    "replicate-cifar10-10-cpu": REPLICATED,
    "replicate-cifar100-30-cpu": REPLICATED,
    "replicate-cifar10-10-long": REPLICATED,
    "any-model": ("runs",),
    "bits": ("settings", "values", "held/*/*/*/AG"),
    "first-order": (
        "staircase/*/bits|first_flip|retain",
        "smooth",
        "bound/*/network|momentum|learning_rate|guard|share|metrics|retain_loss",
    ),
    "integer": ("runs/*/changed|agreement|integer",),
    "monitor": ("runs/*/run", "runs/*/warnings/*/signature|step", "time_ratios"),
    "objective": (
        "search_seeds",
        "grid",
        "best",
        "models",
        "values/*/*/FA|RA|TA|MIA|AG|forget_vs_test_auc|highest FA|highest FA wrong",
        "attacks",
    ),
    "per-example": (
        "rates|groups",
        "metrics/*/*/FA|RA|TA|AG",
        "attacks/*/*/all/tpr|sample auc|klom|F",
        "attacks/*/*/*label/sample auc|shift",
        "attacks/own/*/*label/aucs",
    ),
    "per-example-images": (
        "seconds|MiB",
        "metrics/*/*/FA|RA|TA|AG",
        "attacks/*/*/all/tpr|sample auc|klom|F",
        "attacks/*/*/*memorized/sample auc|shift",
    ),
    "relearn": (
        "rates",
        "runs/*/rows/*/latent|codes|barrier",
        "runs/*/rows/*/now|back/FA|FA wrong|RA",
        "runs/*/rows/*/curves/retain*/FA",
        "runs/*/rows/*/curves/retain, a tenth/FA wrong",
    ),
    "sequential": ("runs/*/sequence/*/*/AG|FA_requests|RA|TA",),
    "stop": ("stops", "retrain/*/FA"),
    "stop-images": ("stops", "retrain/*/FA", "seconds|mib"),
    "relearn-images": (
        "rates|seconds|mib",
        "runs/*/rows/*/latent|codes|barrier",
        "runs/*/rows/*/now|back/FA|RA|AUC",
        "runs/*/rows/*/curves/*/FA|RA|AUC",
    ),
    "sensitivity": ("gaps", "start"),
    "subspace": ("steps/*/last", "runs", "costs/*/time"),
    "updates": ("runs", "alone/*/4/change|layers mean"),
    "variants": ("variants",),
    "projection": (
        "search_seeds",
        "grid",
        "variants/no projection|global|module, undo|only under conflict|forget-only steps",
    ),
    "demo-recalibrated": ("runs/*/metrics/*/AG|TA",),
    "loop": ("search_seeds", "grid", "best", "retrain/*/TA", "values/*/*/*/AG|TA"),
    "demo-ten-seeds": ("runs/*/metrics/*/AG",),
    "demo-without-avx512": ("runs/*/metrics/*/AG",),
}


def kept(value, patterns):
    """The parts of plain data that lie on or below one of the paths; patterns: lists of names."""
    if [] in patterns:
        return rounded(value)
    if not isinstance(value, dict | list):
        return None
    items = value.items() if isinstance(value, dict) else ((str(i), item) for i, item in enumerate(value))
    found = {}
    for name, item in items:
        below = [rest for first, *rest in patterns if any(fnmatch.fnmatchcase(name, p) for p in first.split("|"))]
        part = kept(item, below) if below else None
        if below and (part or part == item):  # no empty shell of a dict that holds nothing asked for
            found[name] = part
    return found if isinstance(value, dict) else list(found.values())


def rounded(value):
    """Plain data with five significant digits."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def store(path, name):
    """Write what KEEP names of the result at `path`.  Returns the path written."""
    result = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    part = kept(result, [pattern.split("/") for pattern in (*HEAD, *KEEP[name])])
    folder = HERE.parent / "oeu_ref" / "lab" if name == "demo" else HERE / "stored"
    target = folder / f"{name}.json"
    target.write_text(json.dumps(part, separators=(",", ":"), ensure_ascii=False) + "\n", encoding="utf-8")
    return target


if __name__ == "__main__":
    source = pathlib.Path(sys.argv[1])
    print(store(source, sys.argv[2] if len(sys.argv) > 2 else source.stem))
