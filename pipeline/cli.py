"""The command line: one function a command; the work is done elsewhere.

Each command prints a few plain lines, or with --json one object on stdout and nothing else there.
Every error of `splitcore.errors` becomes one line on stderr and exit code 2.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pipeline.console import (
    EXIT_INPUT,
    EXIT_MISMATCH,
    configure_logging,
    own_stdout,
    stderr,
)
from splitcore.errors import SpikeBottleNetError, UsageError
from training.baselines.rival import Rival

ENGINES = ("lava-nc", "lava-dl", "torch")
MISMATCHES = (
    "mismatched_spikes",
    "mismatched_states",
    "prediction_mismatches",
    "spike_mismatches",
)

app = typer.Typer(
    name="spikebottlenet",
    help="Cut a spiking network between a neuromorphic edge and a PyTorch cloud, run it, and "
    "measure accuracy, bits, energy and latency. Start with: spikebottlenet demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
bench = typer.Typer(help="Measure both sides in one run and print the ratio.", no_args_is_help=True)
app.add_typer(bench, name="bench")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
LINKS = "3g, 4g, 4g_2021, 5g_low, 5g_mmwave, ble, lora, wifi, or a JSON file."
PROFILES = (
    "cmos45_fp32, cmos45_int8, loihi1, loihi2, odin, seneca, spinnaker2, tianjic, truenorth, or a "
    "JSON file."
)
SOURCES = (
    "digits, cifar10, cifar100, nmnist, cifar10dvs, or a folder or zip with train/CLASS and "
    "test/CLASS; default: "
)
Data = Annotated[str | None, typer.Option(help=SOURCES + "what the bundle was trained on.")]
TrainingData = Annotated[str | None, typer.Option(help=SOURCES + "the config's data.source.")]
BundlePath = Annotated[Path, typer.Argument(help="A bundle folder.")]
Out = Annotated[Path, typer.Option(help="Where to write.")]
BaselineFiles = Annotated[
    list[Path] | None,
    typer.Option(help="File of `baselines` at the same cut, to compare with; repeatable."),
]


def _print_versions(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        engines = ", ".join(f"{name} {version(name)}" for name in ENGINES)
        typer.echo(f"spikebottlenet {version('spikebottlenet')} ({engines})")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log to stderr.")] = False,
    _versions: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_versions,
            is_eager=True,
            help="Print what is installed here, with the engines that spikes depend on.",
        ),
    ] = False,
) -> None:
    configure_logging(verbose)


def _answer(
    as_json: bool, work: Callable[[], dict[str, Any] | None], say: Callable[[dict[str, Any]], str]
) -> None:
    """Run a command's work; print its result as JSON or as the lines that `say` makes of it.

    Without a result nothing is printed: another process of the same run has it. A result that
    counts mismatches, wherever in it, ends with exit code 1.
    """
    if as_json:
        with own_stdout() as stdout:
            result = work()
            if result is not None:
                stdout.write(json.dumps(result, allow_nan=False) + "\n")
    else:
        result = work()
        if result is not None:
            typer.echo(say(result))
    if _counts_mismatches(result):
        raise typer.Exit(EXIT_MISMATCH)


def _require_finite(option: str, value: float | None) -> None:
    if value is not None and not math.isfinite(value):
        raise UsageError(f"{option} {value}: expected a finite number; leave it out")


def _counts_mismatches(result: Any) -> bool:
    match result:
        case dict():
            return any(
                (key in MISMATCHES and value) or _counts_mismatches(value)
                for key, value in result.items()
            )
        case list():
            return any(map(_counts_mismatches, result))
        case _:
            return False


@app.command()
def demo(
    out: Out = Path("demo_out"),
    as_json: Json = False,
) -> None:
    """Train, export, simulate, send, classify and measure on scikit-learn's digits, in one go.

    Writes result.json, report.html and the bundle into --out.
    """
    from pipeline import demo as work

    _answer(as_json, lambda: work.run(out), work.summary)


@app.command()
def train(
    config: Annotated[list[Path], typer.Argument(help="YAML configs; see docs/training.md.")],
    data: TrainingData = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder of one config; default: runs/NAME.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in the folder.")] = False,
    start: Annotated[
        Path | None,
        typer.Option(help="Begin with this bundle's integers, not with the config's `start`."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Train split spiking networks; curves for TensorBoard and a checkpoint after each epoch.

    Runs that a config begins with or learns from are trained first where they are missing. Several
    configs are trained one after the other; their frozen edges run once, so name early cuts first.
    On several GPUs or machines (the bare -- keeps torchrun's own parser off --start):
    torchrun --nproc-per-node N -m -- pipeline.cli train CONFIG --device cuda
    """
    from pipeline import train as work

    _answer(
        as_json,
        lambda: work.run(config, data=data, out=out, resume=resume, device=device, start=start),
        work.summary,
    )


@app.command()
def baselines(
    config: Annotated[Path, typer.Argument(help="The YAML config of a cut spiking run.")],
    out: Annotated[Path, typer.Option(help="The JSON file to write.")],
    data: TrainingData = None,
    runs: Annotated[Path, typer.Option(help="Folder of run folders, for the ANN.")] = Path("runs"),
    quality: Annotated[
        list[int] | None,
        typer.Option(min=1, max=95, help="JPEG quality of an upload; repeat for more."),
    ] = None,
    only: Annotated[
        list[Rival] | None, typer.Option(help="One of them instead of all; repeat for more.")
    ] = None,
    ann: Annotated[
        str | None,
        typer.Option(
            help="Name of the ANN to begin with, a config in the same folder; default: `teacher`."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Train BottleNet, BottleNet++ and a 1-bit CNN at a config's cut, with the same effort."""
    from pipeline import baselines as work

    more: dict[str, Any] = {"qualities": tuple(quality)} if quality else {}
    if only:
        more["only"] = tuple(only)
    _answer(
        as_json,
        lambda: work.run(config, data=data, runs=runs, out=out, device=device, ann=ann, **more),
        work.summary,
    )


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint file or run folder.")],
    out: Annotated[Path, typer.Option(help="The bundle folder to write.")],
    data: TrainingData = None,
    as_json: Json = False,
) -> None:
    """Write a checkpoint as a bundle: NetX edge half, cloud half, probe and manifest.

    Of an ordinary network (neuron: relu) its weights alone are written, for other runs to stand on.
    """
    from pipeline import export as work

    _answer(as_json, lambda: work.run(checkpoint, out=out, data=data), work.summary)


@app.command()
def verify(
    bundle: BundlePath,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many test images; default: all of --data; without either, the frames in the "
            "bundle.",
        ),
    ] = None,
    data: Data = None,
    conv: Annotated[
        Literal["auto", "lava", "blas"],
        typer.Option(help="Conv routine of the stock processes; auto: Lava's own where it can."),
    ] = "auto",
    as_json: Json = False,
) -> None:
    """Compare every layer's spikes and state: stock SLAYER, reference, Lava leaf, stock Lava."""
    from pipeline import verify as work

    _answer(
        as_json,
        lambda: work.run(bundle, samples=samples, data=data, conv=conv),
        work.summary,
    )


@app.command()
def serve(
    bundle: Annotated[list[Path], typer.Argument(help="One or more bundle folders.")],
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 picks one.")] = "127.0.0.1:50061",
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Run the model here or on Ray Serve replicas.")
    ] = "local",
    ray_address: Annotated[
        str | None, typer.Option(help="Join this Ray cluster instead of starting one here.")
    ] = None,
    ray_replicas: Annotated[
        tuple[int, int], typer.Option(help="Least and most replicas of a bundle.")
    ] = (1, 2),
    token_file: Annotated[Path | None, typer.Option(help="File with the bearer token.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate chain.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM private key.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="PEM of the CA that clients must be signed by.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option(help="Allow plaintext on other addresses than loopback.")
    ] = False,
    packets_per_s: Annotated[
        int | None,
        typer.Option(min=1, help="Most packets a second of one peer; default: no limit."),
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Prometheus metrics on this loopback port; 0 picks one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve the cloud half of one or more bundles over gRPC until SIGTERM or Ctrl-C.

    With --json the log on stderr is JSON as well, one object a line.
    """
    from pipeline import serve as work

    work.run(
        bundle,
        listen=listen,
        engine=engine,
        ray_address=ray_address,
        ray_replicas=ray_replicas,
        token_file=token_file,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        insecure=insecure,
        packets_per_s=packets_per_s,
        metrics_port=metrics_port,
        as_json=as_json,
    )


@app.command()
def edge(
    bundle: BundlePath,
    server: Annotated[str, typer.Option(help="HOST:PORT of a running `serve`.")],
    samples: Annotated[
        int | None, typer.Option(min=1, help="How many test images; default: all.")
    ] = None,
    data: Data = None,
    model: Annotated[
        Literal["leaf", "stock"], typer.Option(help="Our fast leaf or stock Lava processes.")
    ] = "leaf",
    live: Annotated[
        bool, typer.Option(help="Send each time step's spikes as they appear.")
    ] = False,
    group: Annotated[
        int, typer.Option(min=1, max=64, help="Samples in one packet; for codes of a few bytes.")
    ] = 1,
    token_file: Annotated[Path | None, typer.Option(help="File with the bearer token.")] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(help="PEM of the CA that signed the server.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate of this client.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM private key of this client.")] = None,
    tls: Annotated[bool, typer.Option(help="TLS by the system's own authorities.")] = False,
    insecure: Annotated[
        bool, typer.Option(help="Allow plaintext to other addresses than loopback.")
    ] = False,
    spill: Annotated[
        Path | None,
        typer.Option(
            help="Keep each sample in this folder until it is answered; what earlier runs left "
            "there is delivered first."
        ),
    ] = None,
    result: Annotated[
        Path | None, typer.Option(help="Also write a result file for `plan` and `report`.")
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(help="Also price the result by this profile or JSON file; repeat for more."),
    ] = None,
    baselines: BaselineFiles = None,
    as_json: Json = False,
) -> None:
    """Run the edge half in the Lava simulator and send its spikes to a server as they come."""
    from pipeline import edge as work

    _answer(
        as_json,
        lambda: work.run(
            bundle,
            server=server,
            samples=samples,
            data=data,
            model=model,
            live=live,
            group=group,
            token_file=token_file,
            tls_ca=tls_ca,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls=tls,
            insecure=insecure,
            spill=spill,
            result=result,
            profiles=profile or (),
            baselines=baselines or (),
        ),
        work.summary,
    )


@app.command()
def energy(
    bundle: BundlePath,
    profile: Annotated[list[str] | None, typer.Option(help=PROFILES + " Repeat for more.")] = None,
    data: Data = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many test images; default: 256, or all where there are fewer."
        ),
    ] = None,
    baselines: BaselineFiles = None,
    as_json: Json = False,
) -> None:
    """Count what really fires in the simulator and price it, op-only and full."""
    from pipeline import energy as work

    _answer(
        as_json,
        lambda: work.run(
            bundle,
            profiles=profile or None,
            data=data,
            samples=samples,
            baselines=baselines or (),
        ),
        work.summary,
    )


@app.command()
def plan(
    result: Annotated[
        list[Path], typer.Argument(help="Result files of several cuts, and files of `baselines`.")
    ],
    link: Annotated[str, typer.Option(help=LINKS)],
    profile: Annotated[str, typer.Option(help=PROFILES)],
    max_loss: Annotated[
        float | None, typer.Option(help="Most accuracy to lose, in points.")
    ] = None,
    max_energy_pj: Annotated[
        float | None, typer.Option(help="Most edge energy, pJ a sample.")
    ] = None,
    max_latency_ms: Annotated[float | None, typer.Option(help="Most latency, ms a sample.")] = None,
    as_json: Json = False,
) -> None:
    """Choose where to cut: the best result under the limits, and why the others lost."""
    from pipeline import plan as work

    for name, value in (
        ("--max-loss", max_loss),
        ("--max-energy-pj", max_energy_pj),
        ("--max-latency-ms", max_latency_ms),
    ):
        _require_finite(name, value)
    _answer(
        as_json,
        lambda: work.plan(
            result,
            link=link,
            profile=profile,
            max_loss=max_loss,
            max_energy_pj=max_energy_pj,
            max_latency_ms=max_latency_ms,
        ),
        work.summary,
    )


@app.command()
def report(
    result: Annotated[
        list[Path], typer.Argument(help="Result files, and files of `baselines` beside them.")
    ],
    out: Annotated[
        Path, typer.Option(help="The HTML file to write; FILE.md: the decision as Markdown.")
    ],
    link: Annotated[str | None, typer.Option(help=LINKS + " To decide by; default: wifi.")] = None,
    profile: Annotated[str | None, typer.Option(help=PROFILES + " To decide by.")] = None,
    max_loss: Annotated[
        float | None, typer.Option(help="Most accuracy to lose, in points; default: 2.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML page from result files; of several cuts, decision first."""
    from pipeline import report as work

    _require_finite("--max-loss", max_loss)
    _answer(
        as_json,
        lambda: work.run(result, out=out, link=link, profile=profile, max_loss=max_loss),
        work.summary,
    )


@bench.command("edge")
def bench_edge(
    quick: Annotated[bool, typer.Option(help="The main comparison alone.")] = False,
    as_json: Json = False,
) -> None:
    """Stock NetX against the leaf on the same HDF5 file."""
    from pipeline.bench import edge as work

    _answer(as_json, lambda: work.run(quick=quick), work.summary)


@bench.command("train")
def bench_train(as_json: Json = False) -> None:
    """Stock SLAYER against the fast path on the same residual net."""
    from pipeline.bench import train as work

    _answer(as_json, work.run, work.summary)


@bench.command("wire")
def bench_wire(
    bundle: Annotated[list[Path], typer.Argument(help="Bundle folders.")],
    samples: Annotated[int, typer.Option(min=1, help="Test images a bundle.")] = 1000,
    data: Data = None,
    baselines: BaselineFiles = None,
    as_json: Json = False,
) -> None:
    """Every codec on a bundle's real spikes against their entropy."""
    from pipeline.bench import wire as work

    _answer(
        as_json,
        lambda: work.run(bundle, samples=samples, data=data, baselines=baselines or ()),
        work.summary,
    )


@bench.command("serve")
def bench_serve(
    bundle: BundlePath,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="What serves the model.")
    ] = "local",
    as_json: Json = False,
) -> None:
    """The served tail against the same tail offline, in one run."""
    from pipeline.bench import serve as work

    _answer(as_json, lambda: work.run(bundle, engine=engine), work.summary)


def main() -> None:
    """Entry point of the `spikebottlenet` command."""
    try:
        app()
    except SpikeBottleNetError as error:
        _fail(" ".join(str(error).split()))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.filename or 'system'}: {error.strerror or error}")


def _fail(line: str) -> None:
    stderr.print(f"spikebottlenet: error: {line}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(EXIT_INPUT)


if __name__ == "__main__":
    main()
