"""``python -m benchmarks NAME``: measure a part of the project, most of them against a public implementation."""

import sys

from datasets.runtime import command_line

BENCHMARKS = {
    "fuzzing": "benchmarks.fuzzing.driver",
    "interval_coverage": "benchmarks.reid.interval_coverage",
    "openpose": "benchmarks.openpose",
    "preset_costs": "benchmarks.preset_costs",
    "ranking": "benchmarks.reid.ranking",
    "reid_training": "benchmarks.reid.training",
    "reranking": "benchmarks.reid.reranking",
    "resume": "benchmarks.resume",
    "sampling": "benchmarks.sampling",
    "shards": "benchmarks.shards",
    "training_step": "benchmarks.training_step",
}
"""Without options."""
COMMANDS = {
    "ablation_people": command_line.Command(
        summary="the generators of an ablation judged on rendered people: pose, identity, likeness",
        config="benchmarks.people.ablation_people:AblationPeopleConfig",
        run="benchmarks.people.ablation_people:run",
    ),
    "sampling_costs": command_line.Command(
        summary="cost and quality of every scenario, sampler and number of steps, and of a few-step student",
        config="benchmarks.people.sampling_costs:CostsConfig",
        run="benchmarks.people.sampling_costs:run",
    ),
    "builtin_generator": command_line.Command(
        summary="pose, identity and likeness of generated people, on rendered ones that no training has seen",
        config="benchmarks.people.builtin_generator:QualityConfig",
        run="benchmarks.people.builtin_generator:run",
    ),
    "year": command_line.Command(
        summary="a simulated year: 52 weekly regenerations of a data set that grows and changes, each checked",
        config="benchmarks.year.driver:YearConfig",
        run="benchmarks.year.driver:run",
    ),
}
"""With options (``--help`` lists them)."""


def main() -> int:
    """Run one benchmark; returns the exit code."""
    names = sys.argv[1:]
    if names and names[0] in COMMANDS:
        return command_line.main("benchmarks", COMMANDS)
    if len(names) != 1 or names[0] not in BENCHMARKS:
        known = sorted([*BENCHMARKS, *COMMANDS])
        print(f"usage: python -m benchmarks {{{','.join(known)}}}", file=sys.stderr)
        return 2
    import importlib

    return importlib.import_module(BENCHMARKS[names[0]]).main()


if __name__ == "__main__":
    sys.exit(main())
