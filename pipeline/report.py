"""One self-contained HTML file that tells what a run found, or decides between several.

A result needs no more than its promised keys. What the pictures draw is in its `details`:

    details.bundle      name, backbone, split, data, input_shape, feature_shape, code_shape
    details.layers      [{name, shape, rate, spikes, synops, macs, neuron_updates}]  means a sample
    details.energy      {profile: both accountings, terms, figures, sensitivity, break-even}
    details.dense, details.rate_times_steps, details.depth, details.codec
    details.classes, details.confusion      [[count]], rows true, columns predicted
    details.raster      {sample, label, predicted, shape (T, C, H, W), packed base64}
    details.accuracy_uncut, input_bytes_mean, grouped_bits_mean, encode_us, cloud_us
    details.whole, cloud_depth

`pipeline.results` holds the exact schema, `details()` builds it. Everything is checked before a
byte is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import link as links
from measure import profile as profiles
from pipeline import candidates, decision_page, plan, results, run_page
from pipeline.candidate import Limits
from pipeline.details import details
from pipeline.markdown_page import MarkdownPage
from pipeline.page import Page
from pipeline.results import save
from splitcore.errors import UsageError

__all__ = ["details", "run", "summary", "write"]


MAX_LOSS = 2.0  # points; the usual bound in the literature on split networks
LINK = "wifi"


def write(result: dict[str, Any], out: Path) -> Path:
    """Write the report of one result to `out`, whole or not at all.

    Raises ResultError naming a field that is missing or impossible, UsageError when `out` cannot
    be written.
    """
    record = results.check(result)
    page = Page()
    run_page.single(page, record)
    return save(page.render(run_page.title(record)), out)


def run(
    result: Sequence[Path],
    out: Path,
    link: str | Path | None = None,
    profile: str | Path | None = None,
    max_loss: float | None = None,
) -> dict[str, Any]:
    """Write the page of one result file, or the decision between several and their baselines.

    Where `out` ends in .md the decision is written as Markdown, its pictures as SVG beside it.

    link, profile, max_loss: what is decided by; LINK, the first neuromorphic profile of the
    results, which has to be in all of them, and MAX_LOSS points where they are not given.
    Raises ResultError naming file and field, ProfileError, UsageError before anything is written.
    """
    read = [Path(each) for each in (*result, link, profile) if each is not None]
    _require_apart(out, read)
    if len(result) == 1 and out.suffix != ".md":
        _refuse_for_one({"--link": link, "--profile": profile, "--max-loss": max_loss})
        record = results.load(Path(result[0]))
        page = Page()
        run_page.single(page, record)
        save(page.render(run_page.title(record)), out)
        return {"report": str(out), "results": 1, "baselines": 0, "chosen": None}
    chosen_link = links.load(LINK if link is None else link)
    inputs = candidates.load(result)
    chosen_profile = profiles.load(profile or run_page.leading_profile(inputs.results[0][1]))
    limits = Limits(max_loss=MAX_LOSS if max_loss is None else max_loss)
    decided = plan.decide(inputs, chosen_link, chosen_profile, limits)
    files: dict[Path, str] = {}
    if out.suffix == ".md":
        page = MarkdownPage(out.stem)
        decision_page.decision(page, inputs, decided, chosen_link, chosen_profile, limits)
        files = {out.with_name(name): picture for name, picture in page.pictures.items()}
    else:
        page = Page()
        decision_page.several(page, inputs, decided, chosen_link, chosen_profile, limits)
    for picture in files:
        _require_apart(picture, read)
    for file, text in {**files, out: page.render("Where to cut")}.items():
        save(text, file)
    return {
        "report": str(out),
        "results": len(inputs.results),
        "baselines": len(inputs.baselines),
        "chosen": decided["chosen"],
    }


def _require_apart(out: Path, read: Sequence[Path]) -> None:
    """UsageError where `out` cannot be written, or is one of the files that are read."""
    results.require_place(out)
    if out.exists() and any(each.exists() and out.samefile(each) for each in read):
        raise UsageError(f"{out}: is among the files that are read; choose another --out")


def _refuse_for_one(given: dict[str, object]) -> None:
    """UsageError where an option was given that the page of one result has no use for."""
    for option, value in given.items():
        if value is not None:
            raise UsageError(
                f"{option}: the page of one result decides nothing; leave it out, or write the "
                "decision of one: --out FILE.md"
            )


def summary(result: dict[str, Any]) -> str:
    """What was written, in plain lines."""
    lines = [
        f"{result['report']}: {result['results']} result(s), {result['baselines']} of baselines"
    ]
    if result["results"] + result["baselines"] > 1:
        lines.append(f"chosen: {result['chosen'] or 'none within the limits'}")
    return "\n".join(lines)
