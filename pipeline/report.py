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
    link: str | Path = LINK,
    profile: str | Path | None = None,
    max_loss: float | None = MAX_LOSS,
) -> dict[str, Any]:
    """Write the page of one result file, or the decision between several and their baselines.

    Where `out` ends in .md the decision is written as Markdown, its pictures as SVG beside it.

    profile is one that all results hold; without it the first neuromorphic one. Raises ResultError
    naming file and field, ProfileError, UsageError.
    """
    chosen_link = links.load(link)
    if len(result) == 1 and out.suffix != ".md":
        record = results.load(Path(result[0]))
        if profile is not None:
            profiles.load(profile)
        page = Page()
        run_page.single(page, record)
        save(page.render(run_page.title(record)), out)
        return {"report": str(out), "results": 1, "baselines": 0, "chosen": None}
    inputs = candidates.load(result)
    chosen_profile = profiles.load(profile or run_page.leading_profile(inputs.results[0][1]))
    limits = Limits(max_loss=max_loss)
    decided = plan.decide(inputs, chosen_link, chosen_profile, limits)
    if out.suffix == ".md":
        page = MarkdownPage(out.stem)
        decision_page.decision(page, inputs, decided, chosen_link, chosen_profile, limits)
        for name, picture in page.pictures.items():
            save(picture, out.with_name(name))
    else:
        page = Page()
        decision_page.several(page, inputs, decided, chosen_link, chosen_profile, limits)
    save(page.render("Where to cut"), out)
    return {
        "report": str(out),
        "results": len(inputs.results),
        "baselines": len(inputs.baselines),
        "chosen": decided["chosen"],
    }


def summary(result: dict[str, Any]) -> str:
    """What was written, in plain lines."""
    lines = [
        f"{result['report']}: {result['results']} result(s), {result['baselines']} of baselines"
    ]
    if result["results"] + result["baselines"] > 1:
        lines.append(f"chosen: {result['chosen'] or 'none within the limits'}")
    return "\n".join(lines)
