"""What the planner chooses from: every cut in the files, all in the cloud, all on the edge.

Beside them stand the rows of baseline files, priced as ordinary networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from measure.profile import Profile
from pipeline import baseline_rows, results
from pipeline.candidate import Candidate
from pipeline.results import Details, Result, figure_records, width_records
from splitcore.errors import ResultError, UsageError

ANSWER_BYTES = 0  # all on the edge: the answer stays there


@dataclass(frozen=True)
class Reference:
    """An accuracy that losses are counted from, and whose it is."""

    accuracy: float
    what: str


@dataclass(frozen=True)
class Inputs:
    """What the files hold: results as (file, result), and files of baselines."""

    results: tuple[tuple[str, Result], ...]
    baselines: tuple[baseline_rows.Loaded, ...] = ()

    @property
    def samples(self) -> int:
        """Test images of every result."""
        return self.results[0][1].samples

    @property
    def splits(self) -> tuple[str, ...]:
        """Where the results' bundles are cut, each place once."""
        return tuple(dict.fromkeys(_details(each).bundle.split for _, each in self.results))

    @property
    def data(self) -> str:
        """The data set that they come from."""
        return _details(self.results[0][1]).bundle.data

    def uncut(self) -> float | None:
        """Accuracy of the network without cut and code, where a result knows it."""
        known = [_details(result).accuracy_uncut for _, result in self.results]
        return max((accuracy for accuracy in known if accuracy is not None), default=None)

    def reference(self) -> Reference:
        """What losses are counted from."""
        uncut = self.uncut()
        if uncut is not None:
            return Reference(uncut, "the uncut network")
        return Reference(
            max(result.accuracy_pipeline for _, result in self.results),
            "the best of these results, as none is of the uncut network",
        )

    def envelope_bytes(self) -> float:
        """What surrounds a payload on the wire, on average over the results."""
        around = [each.wire_bytes_mean - each.payload_bits_mean / 8 for _, each in self.results]
        return max(0.0, sum(around) / len(around))


def load(paths: Sequence[Path]) -> Inputs:
    """Results and baselines, in any order, all of the same data and images, or ResultError."""
    loaded: list[tuple[str, Result]] = []
    beside: list[baseline_rows.Loaded] = []
    for path in map(Path, paths):
        content = results.read(path)
        if baseline_rows.is_baselines(content):
            beside.append(baseline_rows.Loaded(str(path), baseline_rows.check(content, str(path))))
            continue
        result = results.check(content, str(path))
        if result.details is None:
            raise ResultError(f"{path}: details: missing; write the result again with details")
        loaded.append((str(path), result))
    if not loaded:
        raise UsageError("expected at least one result file; `edge --result` writes them")
    first_name, first = loaded[0]
    for name, result in loaded[1:]:
        for field in ("data", "input_shape"):
            expected, got = (getattr(_details(r).bundle, field) for r in (first, result))
            if got != expected:
                raise ResultError(
                    f"{name}: details.bundle.{field}: {got!r} does not match {expected!r} "
                    f"of {first_name}"
                )
        if result.samples != first.samples:
            raise ResultError(
                f"{name}: samples: {result.samples} does not match {first.samples} of {first_name}"
            )
    expected = _details(first).bundle.data
    for each in beside:
        if each.content.data != expected:
            raise ResultError(
                f"{each.file}: data: {each.content.data!r} does not match {expected!r} "
                f"of {first_name}"
            )
        for index, row in enumerate(each.content.rows):
            if row.test.samples != first.samples:
                raise ResultError(
                    f"{each.file}: rows.{index}.test.samples: {row.test.samples} does not match "
                    f"{first.samples} of {first_name}"
                )
    return Inputs(tuple(loaded), baseline_rows.told_apart(beside))


def _details(result: Result) -> Details:
    assert result.details is not None
    return result.details


def candidates(inputs: Inputs, profile: Profile) -> list[Candidate]:
    """Every split, all in the cloud or on the edge where results say what it takes, baselines."""
    loaded, reference = inputs.results, inputs.reference().accuracy
    names = [_details(result).bundle.name for _, result in loaded]
    found: list[Candidate] = []
    for (file, result), name in zip(loaded, names, strict=True):
        detail = _details(result)
        if profile.name not in result.energy_pj:
            raise ResultError(
                f"{file}: energy_pj.{profile.name}: missing; it holds "
                f"{', '.join(result.energy_pj)}; `edge --result --profile` adds one"
            )
        _check_priced_by(profile, detail, file)
        energy, priced = result.energy_pj[profile.name], detail.energy[profile.name]
        split = Candidate(
            name=name if names.count(name) == 1 else f"{name} ({file})",
            kind="split",
            samples=result.samples,
            accuracy=result.accuracy_pipeline,
            loss_points=100 * (reference - result.accuracy_pipeline),
            payload_bits=result.payload_bits_mean,
            message_bytes=result.wire_bytes_mean,
            edge_op_only_pj=energy.op_only,
            edge_full_pj=energy.full,
            steps=result.steps,
            depth=detail.depth,
            step_us=priced.step_us,
            encode_us=detail.encode_us,
            cloud_us=detail.cloud_us,
            energy_absent=tuple(
                term.name.replace("_", " ") for term in priced.terms if term.status == "absent"
            ),
        )
        found.append(split)
        if profile.name in detail.whole:
            whole = detail.whole[profile.name]
            found.append(
                replace(
                    split,
                    name=f"{split.name}, all on the edge",
                    kind="all_edge",
                    message_bytes=ANSWER_BYTES,
                    payload_bits=0.0,
                    edge_op_only_pj=whole.energy_pj.op_only,
                    edge_full_pj=whole.energy_pj.full,
                    step_us=whole.step_us,
                    depth=detail.depth + detail.cloud_depth,
                    note="both halves on the edge",
                )
            )
    return _named([*found, _all_cloud(inputs), *_baselines(inputs)])


def _named(found: list[Candidate]) -> list[Candidate]:
    """The same with names of their own: the later of two gets a number."""
    names: set[str] = set()
    named = []
    for each in found:
        name, number = each.name, 2
        while name in names:
            name, number = f"{each.name} ({number})", number + 1
        names.add(name)
        named.append(replace(each, name=name))
    return named


def _check_priced_by(profile: Profile, detail: Details, file: str) -> None:
    """ResultError where the result was priced by another profile of this name."""
    if profile.name not in detail.energy:
        raise ResultError(f"{file}: details.energy.{profile.name}: missing, energy_pj has it")
    record = detail.energy[profile.name]
    then = {f"figures.{each.name}": _amount(each.value, each.unit) for each in record.figures}
    now = {
        f"figures.{each['name']}": _amount(each["value"], each["unit"])
        for each in figure_records(profile)
    }
    then |= {f"widths.{name}": _amount(bits, "bits") for name, bits in record.widths.items()}
    if record.widths:  # older files do not say
        now |= {f"widths.{name}": _amount(b, "bits") for name, b in width_records(profile).items()}
    for term in record.terms:
        then[f"terms.{term.name}"] = _counted(term.status == "included")
        now[f"terms.{term.name}"] = _counted(term.name in profile.included)
    for name in {**then, **now}:
        was, given = (known.get(name, "none") for known in (then, now))
        if was != given:
            raise ResultError(
                f"{file}: details.energy.{profile.name}.{name}: was priced with {was}, the profile "
                f"has {given}; give a profile of your own another name"
            )


def _amount(value: float, unit: str) -> str:
    return f"{value:.15g} {unit}"


def _counted(included: bool) -> str:
    return "no cost of its own" if included else "a cost of its own"


def _all_cloud(inputs: Inputs) -> Candidate:
    """The uncut network in the cloud; nobody timed its encoding or the whole of it there."""
    loaded, uncut = inputs.results, inputs.uncut()
    sizes = [_details(result).input_bytes_mean for _, result in loaded]
    coded = [size for size in sizes if size is not None]
    raw = math.prod(_details(loaded[0][1]).bundle.input_shape)
    size = min(coded) if coded else float(raw)
    return Candidate(
        name="all in the cloud",
        kind="all_cloud",
        samples=inputs.samples,
        accuracy=uncut,
        loss_points=None if uncut is None else 100 * (inputs.reference().accuracy - uncut),
        payload_bits=8 * size,
        message_bytes=size + inputs.envelope_bytes(),
        edge_op_only_pj=0.0,
        edge_full_pj=0.0,
        steps=0,
        depth=0,
        step_us=None,
        encode_us=None,
        cloud_us=None,
        note="sends the image as JPEG; its accuracy is that before JPEG"
        if coded
        else "sends raw pixels, one byte a value",
    )


def _baselines(inputs: Inputs) -> list[Candidate]:
    """Every row once; rows that do not depend on the cut are the same in each file."""
    found: dict[str, Candidate] = {}
    for each in inputs.baselines:
        for row in each.content.rows:
            name = row.name if row.kind != "split" else f"{row.name} at {each.content.split}"
            priced, sent = row.energy(), row.test.payload_bits_mean / 8 + inputs.envelope_bytes()
            candidate = Candidate(
                name=name,
                kind="baseline",
                samples=row.test.samples,
                accuracy=row.test.accuracy,
                loss_points=100 * (inputs.reference().accuracy - row.test.accuracy),
                payload_bits=0.0 if row.kind == "all_edge" else row.test.payload_bits_mean,
                message_bytes=ANSWER_BYTES if row.kind == "all_edge" else sent,
                edge_op_only_pj=priced.op_only_pj,
                edge_full_pj=priced.full_pj,
                steps=0,
                depth=0,
                step_us=None,
                encode_us=None,
                cloud_us=None,
                note=f"ordinary network, priced by {priced.profile}",
            )
            if found.setdefault(name, candidate) != candidate:
                found[f"{name} ({each.file})"] = candidate
    return list(found.values())
