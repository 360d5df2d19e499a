"""Speed and memory, as ratios to baselines of the same run."""
