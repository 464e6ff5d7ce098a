"""What omega-sessiond costs beside the parts it is made of. `python -m benchmarks` measures; README.md explains."""
