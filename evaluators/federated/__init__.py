"""Federated and distributed training over links that are slow: what is sent, how much of it, and what training makes of it."""
