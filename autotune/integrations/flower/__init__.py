"""A Flower app asks for its settings, for every round and every client, and reports back.

    def run_app(run: TunedRun) -> None:
        app = ServerApp()

        @app.main()
        def main(grid, context):
            run.tuned(FedAvg()).start(grid, initial_arrays, num_rounds=10)

        run_simulation(app, client_app, num_supernodes=100)

    result = tune(open_study(space, "maximize evaluate.accuracy", storage="sqlite:///runs.db"), run_app, trials=20)

See docs/flower.md. Both of Flower's APIs for strategies are understood.
"""

from autotune.integrations.flower.ledger import Round
from autotune.integrations.flower.online import OnlineTuner
from autotune.integrations.flower.rules import ClientState, Rule, by_rank, by_speed, by_staleness, caesar_like
from autotune.integrations.flower.run import TunedRun
from autotune.integrations.flower.session import RunEnded
from autotune.integrations.flower.tuning import open_study, tune, tuned_run
from autotune.integrations.flower.wrapping import tuned

__all__ = [
    "ClientState",
    "OnlineTuner",
    "Round",
    "Rule",
    "RunEnded",
    "TunedRun",
    "by_rank",
    "by_speed",
    "by_staleness",
    "caesar_like",
    "open_study",
    "tune",
    "tuned",
    "tuned_run",
]
