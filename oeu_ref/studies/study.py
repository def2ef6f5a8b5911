"""What all studies share: the document around what was measured, and the three files that show it."""

from ..lab import figures, results


def document(question, config, seeds, found):
    """A study's document as plain data, ready for `write`.

    question: what it answers, a sentence; config: plain data, all that the figures depend on but for the seeds; seeds:
    those reported; found: dict, merged into the document.  Raises ValueError for a number that is not finite.
    """
    head = {"question": question, "config": config, "seeds": list(seeds), "versions": results.versions()}
    return results.plain({**head, **found})


def write(out_dir, name, data, module):
    """Write NAME.json, NAME.md and NAME.png into a directory that exists.

    data: a `document`; module: the study, whose `markdown(data)` and `figure(data)` show it.
    Returns {"table": str, "json": Path, "markdown": Path, "picture": Path, or None}.
    """
    text = module.markdown(data)
    return {
        "table": text,
        "json": results.write_json(out_dir / f"{name}.json", data),
        "markdown": results.write_text(out_dir / f"{name}.md", text + "\n"),
        "picture": figures.picture(out_dir / f"{name}.png", module.figure, data),
    }
