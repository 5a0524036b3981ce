"""``python -m reid COMMAND``: train, test and compare re-ID networks."""

import sys

from datasets.runtime.command_line import Command, main

COMMANDS = {
    "train": Command(
        summary="Train a BoT network on a subset, with or without synthetic images, and test it.",
        config="reid.config:TrainReidConfig",
        run="reid.training.train:make_run",
    ),
    "evaluate": Command(
        summary="Test a trained network on the query and gallery splits of any shards.",
        config="reid.config:EvaluateReidConfig",
        run="reid.evaluation.evaluate:make_evaluation",
    ),
    "embed": Command(
        summary="Write features of any images as Parquet.",
        config="reid.config:EmbedConfig",
        run="reid.export.embed:make_features",
    ),
    "export": Command(
        summary="Write a run's network as ONNX, checked against PyTorch.",
        config="reid.config:ExportConfig",
        run="reid.export.export:make_export",
    ),
    "check-identity": Command(
        summary="Score generated images against their identities; say which to keep.",
        config="reid.config:CheckIdentityConfig",
        run="reid.evaluation.identity_check:make_identity_check",
    ),
    "benchmark": Command(
        summary="Put finished runs into one table with intervals.",
        config="reid.config:BenchmarkConfig",
        run="reid.benchmark.benchmark:make_benchmark",
    ),
    "plan-runs": Command(
        summary="Tell from an earlier table how many draws, seeds or people a gain needs.",
        config="reid.config:PlanRunsConfig",
        run="reid.benchmark.planning:print_plan",
    ),
    "report": Command(
        summary="Write the self-contained HTML report.",
        config="reid.config:ReportConfig",
        run="reid.report.render:make_report",
    ),
    "history": Command(
        summary="Show how the regenerations of a preset went, and what changed between them.",
        config="reid.config:HistoryConfig",
        run="reid.history.show:run_history",
    ),
}

if __name__ == "__main__":
    sys.exit(main("reid", COMMANDS))
