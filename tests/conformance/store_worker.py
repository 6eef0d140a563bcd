"""A process that works on a study: ``python store_worker.py URL ROLE [COUNT]``; prints what it did, one JSON per line."""

from __future__ import annotations

import json
import sys
import time

from autotune.measurement import Measurement, Metric
from autotune.store import Store
from autotune.store.workers import worker_name
from tests.conformance.store_helpers import begin, proposal


def main() -> None:
    url, role, *rest = sys.argv[1:]
    print(json.dumps("ready"), flush=True)
    sys.stdin.readline()
    store = Store(url)
    if role == "open":
        print(json.dumps("opened"), flush=True)
        return
    study = store.load_study("study")
    if role == "work":
        for i in range(int(rest[0])):
            # Every worker wishes for the same configurations, so that each is a race.
            (trial,) = store.begin_trials(study.id, [proposal({"x": i})], worker_id=worker_name(), lease_s=600)
            if trial is not None:
                store.finish(study.id, trial, Measurement({"latency_ms": Metric(float(i), None, (1.0, 2.0))}))
                print(json.dumps([trial.number, i]), flush=True)
    elif role == "die":
        begin(store, study, {"x": "unfinished"}, worker=worker_name())
        i = 0
        while True:
            trial = begin(store, study, {"x": i}, worker=worker_name())
            store.finish(study.id, trial, Measurement({"latency_ms": Metric(float(i))}))
            print(json.dumps([trial.number, i]), flush=True)
            i += 1
    elif role == "hold":
        begin(store, study, {"x": "held"}, worker=worker_name())
        print(json.dumps("held"), flush=True)
        time.sleep(600)


if __name__ == "__main__":
    main()
