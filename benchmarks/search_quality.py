"""How good searchers are at equal evaluations: our strategies beside Optuna, SMAC3, Ax, Kernel Tuner and HEBO.

    python benchmarks/search_quality.py --suite kernels --searchers uniform,tpe,local,smac --seeds 20 --budget 100
    python benchmarks/search_quality.py --slice small            a few seconds, for continuous integration
    python benchmarks/search_quality.py --data DIR               other recorded spaces of the same layout
    python benchmarks/search_quality.py --report FILE.md         the tables of what has been run

Runs are appended to --runs, one line each; the same command again runs only what is missing. Peers are optional: install
them into an environment of their own (see docs/results/search-quality.md) and name its interpreter with --peers.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

# One core for every searcher, so that their own seconds compare. Libraries read this when they are imported.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))  # run as a file, the packages beside this one are not on the path

from autotune.errors import UsageError  # noqa: E402
from autotune.strategies import STRATEGIES  # noqa: E402
from benchmarks.quality.bench import run_all  # noqa: E402
from benchmarks.quality.ledger import Ledger  # noqa: E402
from benchmarks.quality.peers import PEERS  # noqa: E402
from benchmarks.quality.report import report  # noqa: E402
from benchmarks.quality.searchers import UNIFORM  # noqa: E402
from benchmarks.quality.session import Settings  # noqa: E402
from benchmarks.quality.suites import SUITES, load  # noqa: E402
from benchmarks.quality.variants import VARIANTS  # noqa: E402

_PEER_FOLDERS = (".venv-peers", ".venv-hebo")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    data = os.environ.get("AUTOTUNE_DATA", str(_ROOT.parent / "shared" / "data"))
    pythons = ",".join([sys.executable, *(str(_ROOT / folder / "bin" / "python") for folder in _PEER_FOLDERS)])
    parser.add_argument(
        "--data", type=Path, default=Path(data), help="folder of recorded spaces, searched at any depth"
    )
    parser.add_argument("--suite", default="kernels", help=f"some of: {', '.join(SUITES)}")
    parser.add_argument("--problems", default="", help="only problems whose name matches, such as convolution_*")
    parser.add_argument(
        "--searchers",
        default=f"{UNIFORM},random,tpe,cmaes,local",
        help=f"some of: {', '.join([UNIFORM, *sorted(STRATEGIES), *VARIANTS, *PEERS])}",
    )
    parser.add_argument("--seeds", type=int, default=20, help="runs of each searcher on each problem")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--budget", type=int, default=200, help="evaluations of one run")
    parser.add_argument("--initial", type=int, default=10, help="of which so many are the shared random design")
    parser.add_argument("--runs", type=Path, default=Path("search_quality.jsonl"), help="where runs are kept")
    parser.add_argument("--peers", default=pythons, help="interpreters in which peers are looked for")
    parser.add_argument("--report", type=Path, help="write the tables there, of --suite and --budget, and run nothing")
    parser.add_argument("--slice", choices=["small"], help="a few seconds of everything, kept nowhere")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; exit code 2 for bad usage."""
    options = _parser().parse_args(arguments)
    try:
        if options.slice:
            print(_small(_words(options.peers)))
            return 0
        settings = Settings(options.budget, options.initial)
        problems = load(options.data, _words(options.suite), _words(options.problems))
        ledger = Ledger(options.runs)
        if options.report is None:
            if options.seeds < 1:
                raise UsageError(f"--seeds {options.seeds}; give at least 1")
            seeds = range(options.first_seed, options.first_seed + options.seeds)
            run_all(
                problems, _words(options.searchers), seeds, settings, ledger, _words(options.peers),
                lambda line: print(line, flush=True),
            )  # fmt: skip
        text = report(problems, ledger, settings)
        if options.report is None:
            print(text)
        else:
            options.report.write_text(text)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _small(pythons: list[str]) -> str:
    """Every measure on problems that need no data: one with hidden failures, one continuous."""
    with tempfile.TemporaryDirectory() as folder:
        ledger, settings = Ledger(Path(folder) / "runs.jsonl"), Settings(budget=25, initial=5)
        problems = load(Path(folder), ["wrapped", "smooth"], ["memory_limited_60", "branin+shift1"])
        run_all(problems, [UNIFORM, "tpe", "local", "optuna:tpe"], range(2), settings, ledger, pythons, lambda _: None)
        return report(problems, ledger, settings)


if __name__ == "__main__":
    sys.exit(main())
