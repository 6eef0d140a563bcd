"""The benchmark of search quality: problems, peers, protocol, measures and report."""
