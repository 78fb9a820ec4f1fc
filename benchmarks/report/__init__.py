"""What docs/RESULTS.md is made of; benchmarks/results_page.py puts it together."""
