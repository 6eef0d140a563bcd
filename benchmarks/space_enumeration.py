"""Time to enumerate the feasible set of known spaces, beside filtering their product and beside python-constraint2.

    python benchmarks/space_enumeration.py [--json FILE] [--repeats 3]

Every case has about 10^7 raw combinations of ten parameters, except the small ones that the other ways can finish.
Filtering evaluates Python code that was compiled beforehand, which is the fastest that filtering can be in Python.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.space import Int, Ordinal, SearchSpace

NAMES = "abcdefghij"


@dataclass(frozen=True)
class Case:
    """One space: values by parameter, and its constraints as text."""

    name: str
    values: dict[str, list[int]]
    constraints: tuple[str, ...]

    @property
    def raw(self) -> int:
        return math.prod(len(v) for v in self.values.values())

    def space(self) -> SearchSpace:
        parameters = [
            Int(n, v[0], v[-1]) if v == list(range(v[0], v[-1] + 1)) else Ordinal(n, v) for n, v in self.values.items()
        ]
        return SearchSpace(parameters, self.constraints, max_rows=5_000_000)


FIVES = {name: [1, 2, 3, 4, 5] for name in NAMES}
FOURS = {name: [1, 2, 4, 8] for name in NAMES[:8]}
GEMM = {
    "mwg": [16, 32, 64, 128], "nwg": [16, 32, 64, 128], "kwg": [16, 32], "mdimc": [8, 16, 32], "ndimc": [8, 16, 32],
    "mdima": [8, 16, 32], "ndimb": [8, 16, 32], "vwm": [1, 2, 4, 8], "vwn": [1, 2, 4, 8], "stage": list(range(128)),
}  # fmt: skip

CASES = (
    Case("ten sparse constraints", FIVES,
         ("a * b <= 9", "b * c <= 9", "c * d % 2 == 0", "d + e <= 7", "e * f <= 16", "g + h >= 4", "i * j <= 12", "a != j")),
    Case("one product over all ten", FIVES, ("a*b*c*d*e*f*g*h*i*j <= 200",)),
    Case("one sum over all ten", FIVES, ("a+b+c+d+e+f+g+h+i+j == 21",)),
    Case("one remainder over all ten", FIVES, ("(a+2*b+3*c+4*d+5*e+6*f+7*g+8*h+9*i+10*j) % 97 == 0",)),
    Case("GEMM kernel (CLBlast's rules)", GEMM,
         ("kwg % (mdimc * ndimc // mdima) == 0", "kwg % (mdimc * ndimc // ndimb) == 0", "mwg % (mdimc * vwm) == 0",
          "nwg % (ndimc * vwn) == 0", "mwg % (mdima * vwm) == 0", "nwg % (ndimb * vwn) == 0")),
    Case("small: product over eight", FOURS, ("a*b*c*d*e*f*g*h <= 256",)),
)  # fmt: skip
FILTER_LIMIT = 200_000


def by_filtering(case: Case) -> int:
    """Count by trying the whole product."""
    test = eval(f"lambda {', '.join(case.values)}: {' and '.join(f'({c})' for c in case.constraints)}")
    return sum(bool(test(*row)) for row in itertools.product(*case.values.values()))


def by_python_constraint(case: Case) -> int:
    """Count with python-constraint2's default solver, which parses the same texts."""
    from constraint import Problem  # noqa: PLC0415

    problem = Problem()
    for name, values in case.values.items():
        problem.addVariable(name, values)
    for text in case.constraints:
        problem.addConstraint(text)
    return len(problem.getSolutions())


def timed(count: Callable[[], int], repeats: int) -> tuple[int, float]:
    """The count and the best of some times, in seconds."""
    best, found = math.inf, 0
    for _ in range(repeats):
        start = time.perf_counter()
        found = count()
        best = min(best, time.perf_counter() - start)
    return found, best


def enumerated(case: Case) -> int:
    """Count from the sorted table of all feasible configurations, construction of the space included."""
    table = case.space().enumerate()
    if table is None:
        raise SystemExit(f"{case.name}: was not enumerated")
    return len(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many times is shown")
    parser.add_argument("--rivals", action="store_true", help="also run python-constraint2 on the large cases (slow)")
    options = parser.parse_args()
    has_rival = importlib.util.find_spec("constraint") is not None
    rows: list[dict[str, Any]] = []
    print(f"{'case':32} {'raw':>12} {'feasible':>10} {'propagation':>12} {'filtering':>12} {'python-constraint2':>20}")
    for case in CASES:
        feasible, seconds = timed(lambda case=case: enumerated(case), options.repeats)  # type: ignore[misc]
        row: dict[str, Any] = {"case": case.name, "raw": case.raw, "feasible": feasible, "propagation_s": seconds}
        shown = {"filtering": "-", "rival": "-" if has_rival else "not installed"}
        if case.raw <= FILTER_LIMIT:
            row["filtering_feasible"], row["filtering_s"] = timed(lambda case=case: by_filtering(case), 1)  # type: ignore[misc]
            shown["filtering"] = f"{row['filtering_s']:.3f} s"
        if has_rival and (options.rivals or case.raw <= FILTER_LIMIT):
            row["rival_feasible"], row["rival_s"] = timed(lambda case=case: by_python_constraint(case), 1)  # type: ignore[misc]
            shown["rival"] = f"{row['rival_s']:.3f} s"
        if len({row[k] for k in row if k.endswith("feasible")}) > 1:
            raise SystemExit(f"{case.name}: the counts differ: {row}")
        rows.append(row)
        print(
            f"{case.name:32} {case.raw:12,} {feasible:10,} {seconds:10.3f} s {shown['filtering']:>12} {shown['rival']:>20}"
        )
    if options.json:
        options.json.write_text(json.dumps({"benchmark": "space_enumeration", "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
