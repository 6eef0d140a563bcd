"""The same training over real processes: what the simulation says of bytes, weights and time, checked against a wire.

`hook.register` is for anybody's DDP script; `run.train` runs federated averaging over processes of this machine, and
`comparison.compare` sets it beside the simulation.
"""
