"""Is it forgotten, does it stay forgotten, and for every sample? Studies as those of `studies/`, `beyond NAME`."""

# as in `oeu_ref.studies`
STUDIES = {
    "per-example": "an attack that knows the sample, on many models: is every single sample forgotten?",
    "objective": "does a better objective exist: entropy up to a target, weighted, at a falling rate, recalibrated?",
    "relearn": "does what was forgotten stay forgotten, trained on without it, or quantized anew?",
}
ON_IMAGES = tuple(STUDIES)
