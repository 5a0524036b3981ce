"""``python -m benchmarks NAME``: measure a part of the project against a public implementation."""

import sys

BENCHMARKS = {
    "openpose": "benchmarks.openpose",
    "preset_costs": "benchmarks.preset_costs",
    "ranking": "benchmarks.ranking",
    "reranking": "benchmarks.reranking",
    "resume": "benchmarks.resume",
    "sampling": "benchmarks.sampling",
    "shards": "benchmarks.shards",
    "training_step": "benchmarks.training_step",
}


def main() -> int:
    """Run one benchmark; returns the exit code."""
    names = sys.argv[1:]
    if len(names) != 1 or names[0] not in BENCHMARKS:
        print(f"usage: python -m benchmarks {{{','.join(BENCHMARKS)}}}", file=sys.stderr)
        return 2
    import importlib

    return importlib.import_module(BENCHMARKS[names[0]]).main()


if __name__ == "__main__":
    sys.exit(main())
