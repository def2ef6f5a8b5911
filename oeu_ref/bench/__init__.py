"""What OEU costs on top of what it needs: the benchmark, `python -m oeu_ref bench`."""
