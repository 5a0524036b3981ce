"""``python -m flows regenerate --preset NAME [--field value ...]``: from a data set to the table and the report.

Arguments, files and weights are checked before Prefect is imported; what the user can correct is reported in one line,
with exit code 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError, create_model

from datasets.poses.config import ExtractPosesConfig, ImportPosesConfig
from datasets.runtime.command_line import BAD_INPUT, one_line, parse_config
from datasets.runtime.config import StageConfig
from datasets.runtime.errors import InputError
from datasets.runtime.keys import artifact_key
from datasets.shards.config import EncodeConfig, WriteShardsConfig
from flows.config import RegenerateConfig
from flows.preflight import check
from flows.presets import PRESETS
from flows.process.commands import CommandError
from imagpose.config import SynthesizeConfig, TrainGeneratorConfig

SINGLE_STAGES: dict[str, type[StageConfig]] = {
    "import-poses": ImportPosesConfig,
    "extract-poses": ExtractPosesConfig,
    "write-shards": WriteShardsConfig,
    "encode": EncodeConfig,
    "train-imagpose": TrainGeneratorConfig,
    "synthesize": SynthesizeConfig,
}
"""Stages that have a flow of their own in flows/single_stages.py, by its name."""

USAGE = """usage: python -m flows regenerate --preset NAME [--root DATA_SET --poses CSV] [--field value ...]

presets:
{presets}

  python -m flows regenerate --preset demo
  python -m flows regenerate --preset market-small --root Market-1501-v15.09.15 \\
      --poses market-annotation-train.csv --identities 40

'python -m flows regenerate --help' explains every field; nested ones are written --train.steps 100.

one stage as a flow: {stages} [--store DIR] [--field value ...]"""


def usage() -> str:
    """What the command can do, with the presets that there are."""
    width = max(map(len, PRESETS))
    presets = "\n".join(f"  {preset.name:<{width}}  {preset.title}" for preset in PRESETS.values())
    return USAGE.format(presets=presets, stages=", ".join(SINGLE_STAGES))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else BAD_INPUT
    if argv[0] in SINGLE_STAGES:
        return run_single_stage(argv[0], argv[1:])
    if argv[0] != "regenerate":
        known = ", ".join(["regenerate", *SINGLE_STAGES])
        print(f"python -m flows: unknown command '{argv[0]}'; known: {known}", file=sys.stderr)
        return BAD_INPUT
    try:
        config = parse_config(RegenerateConfig, argv[1:], "python -m flows regenerate")
        check(config)
    except (InputError, ValidationError) as error:
        print(f"python -m flows regenerate: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    return regenerate_and_print(config)


def regenerate_and_print(config: RegenerateConfig) -> int:
    """Run the parent flow; the last lines are the table and the report's path."""
    prepare_prefect(config.store)
    from flows.regenerate import run_embedded

    try:
        result = run_embedded(config)
    except CommandError as error:
        print(f"\npython -m flows regenerate: {error}", file=sys.stderr)
        return BAD_INPUT if error.exit_code == BAD_INPUT else 1
    except KeyboardInterrupt:
        print("\nstopped; the same command resumes from here", file=sys.stderr)
        return 130
    sys.stderr.flush()
    print(f"\n{Path(result['table']).read_text().rstrip()}\n\nreport: {result['report']}", flush=True)
    return 0


def run_single_stage(name: str, arguments: Sequence[str]) -> int:
    """Run one stage's flow; its last line is the artifact's folder."""
    config_class = SINGLE_STAGES[name]
    store = (Path, Field(Path("runs/store"), description="Where artifacts are kept and found again."))
    try:
        arguments_class = create_model(name, __base__=config_class, store=store)
        given = parse_config(arguments_class, arguments, f"python -m flows {name}")
        config = config_class(**{field: getattr(given, field) for field in config_class.model_fields})
        artifact_key(config)  # refuses inputs that are not there
    except (InputError, ValidationError) as error:
        print(f"python -m flows {name}: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    prepare_prefect(given.store)
    from flows import single_stages
    from flows.regenerate import embedded

    try:
        with embedded(given.store):
            folder = getattr(single_stages, name.replace("-", "_"))(config, store=given.store)
    except CommandError as error:
        print(f"\npython -m flows {name}: {error}", file=sys.stderr)
        return BAD_INPUT if error.exit_code == BAD_INPUT else 1
    except KeyboardInterrupt:
        print("\nstopped; the same command resumes from here", file=sys.stderr)
        return 130
    sys.stderr.flush()
    print(folder, flush=True)
    return 0


def prepare_prefect(store: Path) -> None:
    """Set Prefect's settings for a run with its own server where the environment has none; before Prefect is imported."""
    defaults = {
        "PREFECT_HOME": str(store.absolute() / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 20 is too short on a busy machine
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # nothing is pickled
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
        "PREFECT_CLI_PROMPT": "false",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder only


if __name__ == "__main__":
    sys.exit(main())
