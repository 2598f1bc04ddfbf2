# SPDX-License-Identifier: Apache-2.0
"""The command line: fold, inspect, verify, bench, embed.  What is large is imported by the command that wants it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .onnx.run import Feeds

DESCRIPTION = """\
Removes the normalization layers of exported models that can be removed exactly, proves the result, and says why the
rest stays.

    normcpu fold model.onnx -o folded.onnx      fold, verify, write
    normcpu inspect model.onnx                  what would happen, and why; writes nothing
    normcpu verify model.onnx folded.onnx       compare two models on the same inputs
    normcpu bench model.onnx folded.onnx        how fast they are in ONNX Runtime
    normcpu embed folded.onnx -o folder         a sequential one as C for a small device

Wants the extra: pip install "normcpu[onnx]".
"""
EXIT_STATUS = """\
exit status:
  0  done; also where there was nothing to fold
  1  verification failed, or two models differ by more than they may
  2  wrong usage
  3  a file cannot be read as a model, made to C, or written
  4  a package is missing
"""
DONE, DIFFERS, USAGE, FILE, MISSING = range(5)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    parser = build_parser()
    chosen = parser.parse_args(arguments)
    if not hasattr(chosen, "run"):
        parser.print_help()
        return USAGE
    try:
        import logging

        from .onnx import CannotEmbed, CannotRun, ModelError, UnknownNode, UnknownRule
    except ModuleNotFoundError as missing:
        return _fail(str(missing), MISSING)
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # what it warns of, reading a model, is refused here in words
    try:
        return int(chosen.run(chosen))
    except ModelError as error:
        return _fail(str(error), FILE)
    except CannotRun as problem:
        return _fail(f"cannot be run here: {problem}", FILE)
    except CannotEmbed as problem:
        return _fail(f"cannot be made to C: {problem}", FILE)
    except (UnknownNode, UnknownRule) as error:
        return _fail(str(error), USAGE)
    except ModuleNotFoundError as missing:
        return _fail(f'{missing.name} is not installed: pip install "normcpu[onnx]"', MISSING)
    except BrokenPipeError:  # the reader of our output, head for instance, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def build_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("normcpu", description=DESCRIPTION, epilog=EXIT_STATUS, formatter_class=raw)
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    fold = commands.add_parser(
        "fold", help="fold a model and write it", epilog=EXIT_STATUS, formatter_class=raw,
        description="Folds BatchNorms, scales, shifts and the weights of other norms into the weights around them.",
    )  # fmt: skip
    fold.add_argument("model", help="an ONNX file")
    fold.add_argument("-o", "--output", metavar="FILE", help="where to write (default: MODEL.folded.onnx)")
    fold.add_argument("--in-place", action="store_true", help="write over the input")
    fold.add_argument("--dry-run", action="store_true", help="fold and verify, write no model")
    fold.add_argument("--report", metavar="FILE", help="write the report: a page, FILE.html, or FILE.json")
    fold.add_argument(
        "--keep-metadata", action="store_true",
        help="keep weights and biases of folded BatchNorms in the model's properties, for quantization",
    )  # fmt: skip
    _add_choices(fold)
    fold.add_argument("--bench", action="store_true", help="time both models afterwards; the report has the figures")
    fold.add_argument("--no-verify", action="store_true", help="do not run the models to compare them")
    fold.add_argument("--inputs", metavar="FILE.npz", help="inputs to verify with: one array per input, by name")
    fold.add_argument("-v", "--verbose", action="store_true", help="print what became of each operation")
    fold.add_argument("-q", "--quiet", action="store_true", help="print nothing")
    fold.set_defaults(run=run_fold)

    inspect = commands.add_parser(
        "inspect", help="show what would be folded, and why not", epilog=EXIT_STATUS, formatter_class=raw,
        description="Lists each affine operation with what would become of it.  Writes nothing, runs nothing.",
    )  # fmt: skip
    inspect.add_argument("model", help="an ONNX file")
    inspect.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _add_choices(inspect)
    inspect.set_defaults(run=run_inspect)

    verify = commands.add_parser(
        "verify", help="compare two models on the same inputs", epilog=EXIT_STATUS, formatter_class=raw,
        description="Runs both and compares the second's error with the first's own float32 error.",
    )  # fmt: skip
    verify.add_argument("original")
    verify.add_argument("folded")
    verify.add_argument("--inputs", metavar="FILE.npz", help="one array per input, by name")
    verify.add_argument("--seed", type=int, default=0, help="of the random inputs")
    verify.set_defaults(run=run_verify)

    bench = commands.add_parser(
        "bench", help="time models in ONNX Runtime", epilog=EXIT_STATUS, formatter_class=raw,
        description="Runs the models in turns on the same inputs, on one thread and with all optimizations.",
    )  # fmt: skip
    bench.add_argument("original")
    bench.add_argument("folded", nargs="+", help="one model or more, with the same inputs")
    bench.add_argument("--rounds", type=_positive, default=100, metavar="N", help="runs of each model (default: 100)")
    bench.add_argument("--inputs", metavar="FILE.npz", help="one array per input, by name")
    bench.add_argument("--seed", type=int, default=0, help="of the random inputs")
    bench.set_defaults(run=run_bench)

    embed = commands.add_parser(
        "embed", help="make C of a folded model", epilog=EXIT_STATUS, formatter_class=raw,
        description="Writes NAME.h, NAME.c, and NAME_test.c, whose main returns 0 where it computes what NumPy does.",
    )  # fmt: skip
    embed.add_argument("model", help="an ONNX file, of operations that follow one another")
    embed.add_argument(
        "-o", "--output", metavar="FOLDER", required=True, help="where to write; made if it is not there"
    )
    embed.add_argument("--name", help="of the function and the files (default: the model's)")
    embed.add_argument(
        "--weights", choices=("float32", "int8"), default="float32",
        help="how those of convolutions and linear layers are stored (default: float32)",
    )  # fmt: skip
    embed.add_argument("--inputs", metavar="FILE.npz", help="inputs to test with: one array, (k, *shape)")
    embed.add_argument("--samples", type=_positive, default=1, metavar="N", help="or as many random ones (default: 1)")
    embed.add_argument("--no-verify", action="store_true", help="do not run the model to compare its results")
    embed.add_argument("-q", "--quiet", action="store_true", help="print nothing")
    embed.set_defaults(run=run_embed)
    return parser


def _add_choices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--skip", action="append", default=[], metavar="RULE", help="do not use this rule, B11 say")
    parser.add_argument("--only", action="append", metavar="RULE", help="use no other rule; may be repeated")
    parser.add_argument(
        "--aggressive", action="store_true",
        help="also use rules that add an operation, parameters or multiplications; the report counts them",
    )  # fmt: skip
    parser.add_argument("--keep", action="append", default=[], metavar="NODE", help="leave the node of this name alone")
    parser.add_argument(
        "--target", choices=("onnxruntime", "generic"), default="onnxruntime",
        help="whose fused patterns are left whole (default: onnxruntime)",
    )  # fmt: skip


def _choices(chosen: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(chosen, name) for name in ("skip", "only", "keep", "target", "aggressive")}


def run_fold(chosen: argparse.Namespace) -> int:
    from .onnx import CannotRun, bench, fold, save
    from .onnx.save import copy, write_text

    output = chosen.output or (chosen.model if chosen.in_place else f"{os.path.splitext(chosen.model)[0]}.folded.onnx")
    if os.path.exists(output) and os.path.exists(chosen.model) and os.path.samefile(output, chosen.model):
        if not chosen.in_place:
            return _fail(f"{output} is the input: choose another --output, or say --in-place", USAGE)
    elif chosen.in_place:
        return _fail("--in-place writes over the input: it goes without --output", USAGE)
    if chosen.bench and (chosen.dry_run or chosen.in_place):
        return _fail("--bench runs both files: it goes without --dry-run and --in-place", USAGE)
    if chosen.bench and not _has_runtime():
        return MISSING
    if chosen.report and not chosen.report.endswith((".html", ".json")):
        return _fail(f"--report must end in .html or .json, got {chosen.report!r}", USAGE)
    feeds = _feeds(chosen.inputs)
    with _working(f"folding {chosen.model}", chosen.quiet):
        model, report = fold(
            chosen.model, **_choices(chosen), verify=not chosen.no_verify, inputs=feeds, ranges=bool(chosen.report),
            keep_metadata=chosen.keep_metadata,
        )  # fmt: skip
    if not chosen.dry_run:
        if report.folded or report.external_data:
            save(model, output, report.external_data)
        else:
            copy(chosen.model, output)
    if chosen.bench:
        try:
            with _working("timing", chosen.quiet):
                report.latency = bench([chosen.model, output])
        except CannotRun as problem:  # the fold stands
            print(f"normcpu: not timed: {problem}", file=sys.stderr)
    if chosen.report:
        is_page = chosen.report.endswith(".html")
        text = report.to_html(os.path.basename(chosen.model)) if is_page else report.to_json() + "\n"
        write_text(text, chosen.report)
    if not chosen.quiet:
        print(report.table() if chosen.verbose else report.summary())
        print(f"{'not written' if chosen.dry_run else 'written'}: {output}")
    return DONE if report.verification is None or report.verification.passed else DIFFERS


def run_inspect(chosen: argparse.Namespace) -> int:
    from .onnx import fold

    with _working(f"reading {chosen.model}", chosen.json):
        _, report = fold(chosen.model, **_choices(chosen), verify=False)
    print(report.to_json() if chosen.json else report.table())
    return DONE


def run_verify(chosen: argparse.Namespace) -> int:
    from .onnx import CannotRun
    from .onnx.large import compare_files

    try:
        with _working("running both models", False):
            result = compare_files(chosen.original, chosen.folded, _feeds(chosen.inputs), chosen.seed)
    except CannotRun as problem:
        return _fail(f"{chosen.original} cannot be run here: {problem}", FILE)
    print(result.table())
    return DONE if result.passed else DIFFERS


def run_bench(chosen: argparse.Namespace) -> int:
    if not _has_runtime():
        return MISSING
    from .onnx import bench
    from .onnx.bench import table

    feeds = _feeds(chosen.inputs)
    with _working("timing", False):
        timings = bench(
            [chosen.original, *chosen.folded], chosen.rounds, None if feeds is None else feeds[0], chosen.seed
        )
    print(table(timings))
    return DONE


def run_embed(chosen: argparse.Namespace) -> int:
    from .onnx import embed

    feeds = _feeds(chosen.inputs)
    inputs = None if feeds is None else next(iter(feeds[0].values()), None)
    try:
        made = embed(
            chosen.model, name=chosen.name, stored=chosen.weights, inputs=inputs, samples=chosen.samples,
            verify=not chosen.no_verify,
        )  # fmt: skip
    except ValueError as error:
        return _fail(str(error), USAGE)
    try:
        written = made.write(chosen.output)
    except OSError as error:
        return _fail(str(error), FILE)
    if not chosen.quiet:
        print(f"flash: {made.flash} bytes and the code, RAM: {made.ram}, stack: at most {made.stack} on a 32-bit CPU")
        print("\n".join(made.notes))
        print(f"written: {', '.join(map(str, written))}")
    return DONE


def _has_runtime() -> bool:
    from importlib.util import find_spec

    if find_spec("onnxruntime") is None:
        _fail("bench runs models in ONNX Runtime, which is not installed: pip install onnxruntime", MISSING)
        return False
    return True


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _feeds(path: str | None) -> list[Feeds] | None:
    from .onnx.run import read_feeds

    return None if path is None else [read_feeds(path)]


@contextmanager
def _working(what: str, quiet: bool) -> Iterator[None]:
    """A line on a terminal while something takes its time, gone when it is done."""
    shown = sys.stderr.isatty() and not quiet
    if shown:
        print(f"\r{what} ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _fail(message: str, status: int) -> int:
    print(f"normcpu: {message}", file=sys.stderr)
    return status


def _version() -> str:
    from . import __version__

    return f"normcpu {__version__}"
