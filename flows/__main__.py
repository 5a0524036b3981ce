"""``python -m flows regenerate --preset NAME [--field value ...]``: from a data set to the table and the report.

Arguments, files and weights are checked before Prefect is imported; what the user can correct is reported in one line,
with exit code 2.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic import Field, ValidationError, create_model

from datasets.poses.config import ExtractPosesConfig, ImportPosesConfig
from datasets.runtime.command_line import BAD_INPUT, BUSY, IO_ERROR, TERMINATED, one_line, parse_config
from datasets.runtime.config import StageConfig
from datasets.runtime.errors import InputError, printable
from datasets.runtime.keys import artifact_key
from datasets.runtime.remote.addresses import with_addresses
from datasets.shards.config import EncodeConfig, WriteShardsConfig
from flows.alerts import AlertsConfig
from flows.config import RegenerateConfig
from flows.preflight import check, folder_problem
from flows.presets import PRESETS
from flows.process.commands import CommandError
from flows.server.loopback import bypass_proxies_for_loopback
from flows.test_time.one_network import OneNetworkConfig, treat_network
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

ALERTS = "alerts"
"""The command that makes automations."""
TEST_TIME = "test-time"
"""The command for one trained network."""

USAGE = """usage: python -m flows regenerate --preset NAME [--root DATA_SET --poses CSV] [--field value ...]

presets:
{presets}

  python -m flows regenerate --preset demo
  python -m flows regenerate --preset market-small --root Market-1501-v15.09.15 \\
      --poses market-annotation-train.csv --identities 40

'python -m flows regenerate --help' explains every field; nested ones are written --train.steps 100.

without Prefect: python -m flows direct, with the same arguments

one trained network at test time, without Prefect: test-time --run FOLDER [--generator FOLDER] [--field value ...]

one stage as a flow: {stages} [--store DIR] [--field value ...]

alerts, on the server that PREFECT_API_URL names: alerts --webhook URL | --block TYPE/NAME"""


def usage() -> str:
    """What the command can do, with the presets that there are."""
    width = max(map(len, PRESETS))
    presets = "\n".join(f"  {preset.name:<{width}}  {preset.title}" for preset in PRESETS.values())
    return USAGE.format(presets=presets, stages=", ".join(SINGLE_STAGES))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if not argv or argv[0] in ("-h", "--help"):
            print(usage())
            return 0 if argv else BAD_INPUT
        run = prepare(argv[0], argv[1:])
    except (InputError, ValidationError) as error:
        print(f"{' '.join(['python -m flows', *argv[:1]])}: {with_addresses(one_line(error))}", file=sys.stderr)
        return BAD_INPUT
    return run()


def prepare(command: str, arguments: Sequence[str]) -> Callable[[], int]:
    """Check a command's arguments; returns what runs it and gives the exit code.

    Raises:
        InputError: there is no such command, or an argument, a file or an extension's module cannot be used.
        ValidationError: a field's value is refused.
    """
    if command in ("regenerate", "direct"):
        config = parse_config(RegenerateConfig, arguments, f"python -m flows {command}")
        check(config)
        return partial(regenerate_and_print if command == "regenerate" else regenerate_without_prefect, config)
    if command == TEST_TIME:
        network = parse_config(OneNetworkConfig, arguments, f"python -m flows {TEST_TIME}")
        if (problem := folder_problem("--store", network.store)) is not None:
            raise InputError(problem)
        return partial(print_result, f"python -m flows {TEST_TIME}", partial(treat_network, network))
    if command == ALERTS:
        alerts = parse_config(AlertsConfig, arguments, "python -m flows alerts")
        if not os.environ.get("PREFECT_API_URL"):
            raise InputError("PREFECT_API_URL is not set; alerts are made on a server that stays, so name one")
        return partial(create_alerts, alerts)
    if command not in SINGLE_STAGES:
        known = ", ".join(["regenerate", "direct", TEST_TIME, ALERTS, *SINGLE_STAGES])
        raise InputError(f"there is no such command; known: {known}")
    config_class = SINGLE_STAGES[command]
    store = (Path, Field(Path("runs/store"), description="Where artifacts are kept and found again."))
    given = parse_config(
        create_model(command, __base__=config_class, store=store), arguments, f"python -m flows {command}"
    )
    config = config_class(**{field: getattr(given, field) for field in config_class.model_fields})
    artifact_key(config)  # refuses inputs that are not there
    if (problem := folder_problem("--store", given.store)) is not None:
        raise InputError(problem)
    return partial(run_single_stage, command, config, given.store)


def regenerate_and_print(config: RegenerateConfig) -> int:
    """Run the parent flow; the last lines are the table and the report's path."""
    prepare_prefect(config.store)
    from flows.regenerate import run_embedded

    return print_result("python -m flows regenerate", lambda: table_and_report(run_embedded(config)))


def regenerate_without_prefect(config: RegenerateConfig) -> int:
    """The same in this process, on a machine that need not have Prefect."""
    from flows.direct import regenerate_directly

    return print_result("python -m flows direct", lambda: table_and_report(regenerate_directly(config)))


def table_and_report(result: Mapping[str, str]) -> str:
    """The last lines of a regeneration."""
    return f"\n{Path(result['table']).read_text(encoding='utf-8').rstrip()}\n\nreport: {result['latest']}"


def run_single_stage(name: str, config: StageConfig, store: Path) -> int:
    """Run one stage's flow; its last line is the artifact's folder."""
    prepare_prefect(store)
    from flows import single_stages
    from flows.regenerate import embedded

    def run() -> str:
        with embedded(store):
            return getattr(single_stages, name.replace("-", "_"))(config, store=store)

    return print_result(f"python -m flows {name}", run)


def create_alerts(config: AlertsConfig) -> int:
    """Make the automations of `flows.server.automations`."""
    from flows.server.automations import make_alerts

    try:
        return make_alerts(config)
    except InputError as error:
        print(f"python -m flows alerts: {with_addresses(one_line(error))}", file=sys.stderr)
        return BAD_INPUT


def print_result(program: str, run: Callable[[], str]) -> int:
    """Run a flow and print what it returns as the last lines; returns the exit code."""
    try:
        result = run()
    except (InputError, ValidationError) as error:
        print(f"{program}: {printable(with_addresses(one_line(error)))}", file=sys.stderr)
        return BAD_INPUT
    except CommandError as error:
        print(f"\n{program}: {error}", file=sys.stderr)
        return error.exit_code if error.exit_code in (BAD_INPUT, IO_ERROR, BUSY, TERMINATED) else 1
    except KeyboardInterrupt:
        print("\nstopped; the same command resumes from here", file=sys.stderr)
        return 128 + signal.SIGINT
    sys.stderr.flush()
    print(result, flush=True)
    return 0


def prepare_prefect(store: Path) -> None:
    """Prefect's settings for a run with its own server, where the environment has none; before Prefect is imported."""
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
    bypass_proxies_for_loopback()
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder only


if __name__ == "__main__":
    sys.exit(main())
