"""Speed and memory beside what they are to reach: ratios of interleaved pairs, row by row."""
