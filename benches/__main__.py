# SPDX-License-Identifier: Apache-2.0
"""python -m benches: everything that is timed, as one table and a picture per number of threads.

Times are the minimum of many rounds.  GB/s count what an operation cannot avoid to read and write, once;
the limit is what plain loads and stores take for the passes it needs, measured between the same calls.
A peer's column is its time over ours: above 1 we are faster.  C peers are compared with the C functions,
Python peers with the Python functions.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
sys.path.append(str(HERE.parent / "tests"))  # what errors are measured with

import family  # noqa: E402
import native  # noqa: E402
import overhead  # noqa: E402
import picture  # noqa: E402
import shapes  # noqa: E402
from tabulate import tabulate  # noqa: E402
from targets import PASSES, PEERS, Row, limit_loops, short  # noqa: E402

RESULTS = HERE / "results"
README_PEERS = ("torch first", "torch last", "onnxruntime first", "onednn nhwc", "onednn nChw16c")

# malloc keeps its pages and asks for huge ones, for everyone: contestants that allocate are not timed on
# the kernel's clearing of fresh pages.  https://sourceware.org/glibc/manual/latest/html_node/Memory-Allocation-Tunables.html
MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"


def time_native(problems, threads, seconds):
    """Runs bench.c; {(shape, dtype): {(who, op, layout): result}} and the file with all of it."""
    path, times = RESULTS / f"native-{threads}.jsonl", {}
    with path.open("w") as lines:
        for result in native.run(problems, threads, seconds):
            print(json.dumps(result), file=lines)
            if result["who"] == "machine":
                continue
            key = tuple(result["shape"]), result["dtype"]
            if key not in times and sys.stderr.isatty():
                print(f"\rC, {threads} thread(s): {len(times) + 1} of {len(problems)}", end="", file=sys.stderr)
            times.setdefault(key, {})[result["who"], result["op"], result["layout"]] = result
    return times, path


def time_python(arguments, threads, limits):
    """Runs bench_norms.py; {(shape, dtype): {(who, op, layout): extra_info}} with the fastest turn."""
    path = RESULTS / f"python-{threads}.json"
    selected = "smoke" if arguments.smoke else "all" if arguments.all else "table"
    command = [
        sys.executable, "-m", "pytest", HERE / "bench_norms.py", "-q", "--no-header", "-p", "no:cacheprovider",
        "--benchmark-enable", "--benchmark-quiet", "--benchmark-disable-gc", f"--benchmark-json={path}",
        f"--shapes={selected}", f"--threads={threads}", f"--filter={arguments.filter}", f"--limits={limits}",
    ]  # fmt: skip
    environ = os.environ | {"OMP_NUM_THREADS": str(threads), "GLIBC_TUNABLES": MALLOC}
    path.unlink(missing_ok=True)
    done = subprocess.run(command, cwd=HERE.parent, env=environ, stdout=sys.stderr)
    if done.returncode:
        print("some Python contestants failed: their columns are '-'", file=sys.stderr)
    times = {}
    for bench in json.loads(path.read_text())["benchmarks"] if path.exists() else ():
        info = bench["extra_info"] | {"min": bench["stats"]["min"]}
        mine = times.setdefault((tuple(info["shape"]), info["dtype"]), {})
        who = info["who"], info["op"], info["layout"]
        before = mine.get(who, info)
        mine[who] = info | {"min": min(info["min"], before["min"]), "ulp": info.get("ulp", before.get("ulp"))}
    return times


def table_rows(threads, times, python, limits):
    for (shape, dtype), results in times.items():
        peers = python.get((shape, dtype), {})
        for (who, op, layout), ours in results.items():
            if who != "normcpu":
                continue
            function = peers.get((who, op, layout), {})
            faster, seconds = {}, {}
            for peer in PEERS:
                name, lies = peer.split()
                if (name, op, lies) in results:
                    seconds[peer] = results[name, op, lies]["min"]
                    faster[peer] = seconds[peer] / ours["min"]
                elif function and (name, op, lies) in peers:
                    seconds[peer] = peers[name, op, lies]["min"]
                    faster[peer] = seconds[peer] / function["min"]
            limit = sum(limits[shape, dtype][loop] for loop in limit_loops(op, layout, shape, dtype))
            evaluation = results.get((who, "eval", layout), {}).get("min")
            yield Row(shape, dtype, threads, op, layout, ours["min"], ours["median"], limit, faster,
                      seconds, function.get("ulp"), evaluation)  # fmt: skip


def show(rows):
    header = ["shape", "op", "layout", "us", "median", "GB/s", "limit %", *PEERS, "ulp"]
    header = [name.replace(" ", "\n") for name in header]
    lines = []
    for row in rows:
        shape = f"{'x'.join(map(str, row.shape))} {row.dtype} {row.threads}T"
        ratios = [f"{row.faster[peer]:.2f}" if peer in row.faster else "-" for peer in PEERS]
        ulp = "-" if row.ulp is None else f"{row.ulp:.2f}"
        lines.append([shape, row.op, row.layout, f"{row.seconds * 1e6:.4g}", f"{row.median * 1e6:.4g}",
                      f"{row.rate:.1f}", f"{row.percent:.0f}", *ratios, ulp])  # fmt: skip
    align = ["left"] * 3 + ["right"] * (len(header) - 3)
    return tabulate(lines, header, tablefmt="simple", disable_numparse=True, colalign=align)


def show_short(rows):
    missed = [(by, row, wanted) for row in rows for wanted, by in short(row) if by > 1]
    missed.sort(key=lambda m: m[0], reverse=True)
    lines = [(f"{'x'.join(map(str, row.shape))} {row.dtype} {row.threads}T", row.op, row.layout, wanted,
              f"{100 * (by - 1):.0f} %") for by, row, wanted in missed]  # fmt: skip
    return tabulate(lines, ("shape", "op", "layout", "wanted", "slower by"), tablefmt="simple")


def show_readme(rows):
    """The README's table: microseconds (percent of the limit), channel-major, and the peers' microseconds."""
    names = {"eval": "frozen", "train": "training", "backward": "backward"}
    lines = [
        [str(row.shape), names[row.op], f"{row.seconds * 1e6:.3g} ({row.percent:.0f} %)",
         "-" if row.ulp is None else f"{row.ulp:.2f}",
         *(f"{row.peers[peer] * 1e6:.3g}" if peer in row.peers else "-" for peer in README_PEERS)]
        for row in rows if row.op in names and row.layout == "first"
    ]  # fmt: skip
    return tabulate(lines, ("shape", "operation", "normcpu", "error", *README_PEERS), "github", disable_numparse=True)


def main():
    parser = argparse.ArgumentParser(prog="python -m benches", description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="four shapes, seconds")
    parser.add_argument("--all", action="store_true", help="every distinct layer of the three networks")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, min(2, os.cpu_count())}))
    parser.add_argument("--filter", default="", help="shapes whose 'source shape dtype' contains this")
    parser.add_argument("--ops", nargs="+", choices=PASSES, default=list(PASSES), help="rows to show")
    parser.add_argument("--readme", action="store_true", help="also the README's table, in Markdown")
    parser.add_argument("--family", action="store_true", help="only the table of the family, see family.py")
    parser.add_argument("--no-python", action="store_true", help="the C functions and their peers only")
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    if arguments.family:
        print(family.table(arguments.smoke, arguments.filter))
        return
    problems = shapes.select(arguments.smoke, arguments.all, arguments.filter)
    rows = []
    for threads in arguments.threads:
        times, path = time_native(problems, threads, 0.05 if arguments.smoke else 0.5)
        python = {} if arguments.no_python else time_python(arguments, threads, path)
        rows += table_rows(threads, times, python, native.read_limits(path))
    rows = [row for row in rows if row.op in arguments.ops]
    print(__doc__)
    report = show(rows) + "\n\nShort of the target:\n" + show_short(rows)
    if not arguments.no_python:
        report += "\n\n" + family.table(arguments.smoke, arguments.filter)
        report += "\n\n" + tabulate(overhead.table(), ("", "measured", "at most"), tablefmt="simple")
    if arguments.readme:
        report += "\n\n" + show_readme(rows)
    print(report)
    (RESULTS / "table.txt").write_text(report + "\n")
    for path in picture.draw(rows, RESULTS):
        print(path)


if __name__ == "__main__":
    main()
