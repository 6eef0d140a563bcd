"""The moe-cache domain's measurements: routing traces, cache replay and the timeline of one token."""
