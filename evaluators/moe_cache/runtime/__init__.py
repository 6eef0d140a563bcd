"""The runtime behind evaluator `real`: experts that are really moved from a slow tier and computed in a fast one."""
