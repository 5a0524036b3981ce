"""One way to run a stage from the command line, for all packages.

``python -m PACKAGE COMMAND --field value ...`` builds the command's config from flags (or from ``--config FILE``, which
may be given several times to make several artifacts in one process) and runs it. What the user can fix is reported in
one line with exit code 2, before any work; a defect of ours keeps its traceback and exits with 1.
"""

from __future__ import annotations

import copy
import errno
import functools
import itertools
import json
import logging
import os
import re
import signal
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from datasets.runtime.artifacts import build
from datasets.runtime.config import StageConfig
from datasets.runtime.errors import ArtifactBusyError, InputError, escape_in_output, printable
from datasets.runtime.keys import artifact_directory
from datasets.runtime.manifests import is_complete, local_path
from datasets.runtime.reading.names import refuse_no_text
from datasets.runtime.registry import load_name, registry_of
from datasets.runtime.remote.addresses import AddressLines, spelled, with_addresses
from datasets.runtime.renames import RENAMED, models_in, refuse_old_flags

BAD_INPUT = 2
TERMINATED = 128 + signal.SIGTERM
BAD_PATH = (
    errno.ENAMETOOLONG,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ELOOP,
)
"""What the system says of a path that cannot be written or read as it was given: the user's to fix."""
PICK_DEVICE = "datasets.runtime.devices:pick"
"""Imported only when a command with a device is about to work: it needs torch."""
IO_ERROR, BUSY = 74, 75
"""Exit codes of what may pass by itself (EX_IOERR, EX_TEMPFAIL of sysexits.h): a disk or network that failed, another
process at work on the same artifact. A flow tries again after these, and after no other."""
PASSING_ERRORS = frozenset(
    {
        errno.EIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.ECONNRESET,
        errno.ECONNREFUSED,
        errno.ECONNABORTED,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENOTCONN,
        errno.EREMOTEIO,
    }
)


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of a package: what it does, its config class and its function, both as ``module:name``.

    The function of a stage is ``make(config, directory) -> summary``, any other command's ``run(config) -> int | None``
    (an exit code). Names, not objects, so that ``--help`` and complete artifacts never import torch.
    """

    summary: str
    config: str
    run: str


def main(package: str, commands: Mapping[str, Command], argv: Sequence[str] | None = None) -> int:
    """Run one of a package's commands; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    escape_in_output()
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage(package, commands))
        return 0 if argv else BAD_INPUT
    name, *arguments = argv
    if arguments and f"{name} {arguments[0]}" in commands:  # 'store prune'
        name, arguments = f"{name} {arguments[0]}", arguments[1:]
    if name not in commands:
        print(f"python -m {package}: unknown command '{name}'; known: {', '.join(commands)}", file=sys.stderr)
        return BAD_INPUT
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(AddressLines("%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for noisy in ("httpx", "fontTools", "matplotlib", "PIL", "aiobotocore", "botocore", "google", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # Read when torch is loaded, later. Threads that wait by spinning stall each other where other work shares the
    # cores: measured 57 s a training step with two threads on two busy cores, 1.1 s with threads that sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # so that 'finally' blocks run
    try:
        return run_command(f"python -m {package} {name}", commands[name], arguments)
    except (InputError, ValidationError) as error:
        print(f"python -m {package} {name}: {printable(with_addresses(one_line(error)))}", file=sys.stderr)
        return BUSY if isinstance(error, ArtifactBusyError) else BAD_INPUT
    except OSError as error:
        if error.errno in BAD_PATH:
            shown = printable(with_addresses(str(error.filename or "a path")))
            print(f"python -m {package} {name}: {shown[:200]}: {error.strerror}; name another path", file=sys.stderr)
            return BAD_INPUT
        if error.errno not in PASSING_ERRORS:
            raise
        logging.getLogger(__name__).exception("reading or writing failed")
        return IO_ERROR
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def run_command(program: str, command: Command, arguments: Sequence[str]) -> int:
    """Parse a command's arguments and run it, once per config."""
    config_class = load_name(command.config)
    refuse_no_text(arguments)
    own, rest = _split_own_options(arguments, config_class)
    if own["config"]:
        if rest:
            raise InputError(f"'{rest[0]}' beside --config: change the field in the file, or give flags only")
        configs = [read_config(config_class, Path(file)) for file in own["config"]]
    else:
        configs = [parse_config(config_class, rest, program)]
    if not issubclass(config_class, StageConfig):
        _check_device(configs[0])
        return int(load_name(command.run)(configs[0]) or 0)
    if own["output"] and len(configs) > 1:
        raise InputError("--output names one folder, but several --config were given; use --store")
    for config in configs:
        print(spelled(_build_one(config, command, own)), flush=True)
    return 0


def _build_one(config: StageConfig, command: Command, own: Mapping[str, Any]) -> Path:
    store, output = local_path(own["store"] or "runs/store"), local_path(own["output"]) if own["output"] else None
    if not output and is_complete(directory := artifact_directory(config, store)):
        return directory  # found before the stage's module, and with it torch, is imported
    _check_device(config)
    return build(config, load_name(command.run), store=store, output=output)


def _check_device(config: BaseModel) -> None:
    """Refuse a GPU that is not there before any work; a command without the field `device` needs none.

    Raises:
        InputError: see `datasets.runtime.devices.pick`.
    """
    if (device := getattr(config, "device", None)) is not None:
        load_name(PICK_DEVICE)(device)


def _split_own_options(arguments: Sequence[str], config_class: type[BaseModel]) -> tuple[dict[str, Any], list[str]]:
    """Take --config, --store and --output out of the arguments; the rest are fields of the config."""
    own: dict[str, Any] = {"config": [], "store": None, "output": None}
    for name in own.keys() & config_class.model_fields.keys():
        del own[name]  # the command's own field, as of 'store'
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        token = queue.pop(0)
        option, equals, value = token.removeprefix("--").partition("=")
        if not token.startswith("--") or option not in own:
            rest.append(token)
            continue
        if not equals:
            if not queue:
                raise InputError(f"--{option} needs a value")
            value = queue.pop(0)
        if not value:
            raise InputError(f"--{option} is empty; give a path, or leave the option out")
        if option == "config":
            own["config"].append(value)
        else:
            own[option] = value
    return own, rest


def read_config(config_class: type[BaseModel], file: Path) -> Any:
    """A config from its JSON file."""
    if file.exists() and not file.is_file():  # a pipe or a device would never end
        raise InputError(f"--config {file}: is not a file")
    try:
        return config_class.model_validate_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--config {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"--config {file}: is not UTF-8 text, expected a JSON file") from None


def parse_config(config_class: type[BaseModel], arguments: Sequence[str], program: str) -> Any:
    """A config from command-line flags: ``--field value``, ``--outer.inner value``, lists as ``1,2`` or JSON.

    A flag may be spelled with hyphens or, like its field, with underscores. In a list of paths a comma belongs to the
    path where such a file or folder is there (`with_whole_paths`).
    """
    from pydantic_settings import BaseSettings, SettingsConfigDict
    from pydantic_settings.exceptions import SettingsError

    # No environment variable may set a field: what a run was made from must stand in its command or its file.
    def sources(cls: type, settings_cls: type, init_settings: Any, **_others: object) -> tuple[Any, ...]:
        return (init_settings,)

    namespace = {
        "__doc__": config_class.__doc__,
        "model_config": SettingsConfigDict(
            cli_prog_name=program,
            cli_kebab_case=True,
            cli_implicit_flags=True,
            cli_hide_none_type=True,
            cli_avoid_json=False,
            cli_exit_on_error=False,
        ),
        "settings_customise_sources": classmethod(sources),
    }
    settings_class = types.new_class("Arguments", (config_class, BaseSettings), {}, lambda ns: ns.update(namespace))
    refuse_no_text(arguments)
    refuse_old_flags(config_class, arguments)
    try:
        flags = with_whole_paths(config_class, [_as_flag(argument) for argument in _named(config_class, arguments)])
        source = _flags_source()(settings_class, cli_parse_args=flags)
        given = source()
    except SettingsError as error:
        raise InputError(f"{one_line(error).removeprefix('error parsing CLI: ')} (--help lists the fields)") from None
    if empty := _first_empty(given):
        raise InputError(f"--{empty.replace('_', '-')} is empty; give a value, or leave the option out")
    return config_class.model_validate(given)


@functools.cache
def _flags_source() -> type[Any]:
    """pydantic-settings' reader of flags, with required flags first and a registry's names in ``--help``."""
    from pydantic_settings import CliSettingsSource  # its import takes a tenth of a second, which not everyone needs

    class FlagsSource(CliSettingsSource[Any]):
        def _merge_parsed_list(self, parsed_list: list[str], field_name: str) -> str:
            """Lists of texts in JSON as they are: the base class doubles backslashes, as of JSON's escapes."""
            lists = [_json(value) if isinstance(value, str) else None for value in parsed_list]  # of no value: []
            if all(isinstance(value, list) and all(isinstance(item, str) for item in value) for value in lists):
                return json.dumps([item for value in lists for item in value or ()])
            return super()._merge_parsed_list(parsed_list, field_name)

        def _sort_arg_fields(self, model: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
            fields = super()._sort_arg_fields(model)
            return sorted(fields, key=lambda field: not field[1].is_required())  # stable: else as declared

        def _help_format(self, field_name: str, field_info: FieldInfo, *others: Any, **options: Any) -> str:
            registry = registry_of(field_info.annotation, tuple(field_info.metadata))
            if registry is not None:
                field_info = copy.copy(field_info)
                field_info.description = f"{field_info.description or ''} One of: {', '.join(registry)}."
            return super()._help_format(field_name, field_info, *others, **options)

    return FlagsSource


def _named(config_class: type[BaseModel], arguments: Sequence[str]) -> list[str]:
    """The arguments, those before the first flag as the config's positional field, if it has one."""
    field = getattr(config_class, "positional", None)
    words = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))
    if field is None or not words:
        return list(arguments)
    return [f"--{field}", json.dumps(words), *arguments[len(words) :]]


def _as_flag(argument: str) -> str:
    """``--outer.some_field=a_b`` as ``--outer.some-field=a_b``; what is not a flag unchanged."""
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else argument


def with_whole_paths(config_class: type[BaseModel], flags: Sequence[str]) -> list[str]:
    """The flags, with values of lists of paths as JSON, so that a file whose name has a comma is one path.

    The same of ``NAME=PATH`` pairs: what follows a comma and has no ``=`` belongs to the path before.
    """
    found: list[str] = []
    origin: object = None  # of the field whose value is the next argument
    for flag in flags:
        if origin is not None:
            found.append(_paths_as_json(flag, origin))
            origin = None
            continue
        name, equals, value = flag.partition("=")
        origin = _paths_origin(config_class, name[2:].replace("-", "_").split(".")) if name.startswith("--") else None
        if origin is not None and equals:
            flag, origin = f"{name}={_paths_as_json(value, origin)}", None
        found.append(flag)
    return found


def _paths_origin(model: type[BaseModel], names: Sequence[str]) -> object:
    """list, tuple or dict if a field, by its names from the outermost model on, holds several paths; else None."""
    models = [model]
    for name in names[:-1]:
        fields = (owner.model_fields[name] for owner in models if name in owner.model_fields)
        models = [inner for field in fields for inner in models_in(field.annotation)]
    fields = (owner.model_fields[names[-1]] for owner in models if names[-1] in owner.model_fields)
    return next((found for field in fields if (found := _origin_in(field.annotation)) is not None), None)


def _origin_in(annotation: Any) -> object:
    origin, arguments = getattr(annotation, "__origin__", None), getattr(annotation, "__args__", ())
    if origin in (list, tuple, dict):
        return origin if any(Path in (item, getattr(item, "__origin__", None)) for item in arguments) else None
    return next((found for item in arguments if (found := _origin_in(item)) is not None), None)  # X | None


def _paths_as_json(value: str, origin: object) -> str:
    """Several paths as JSON; what is JSON already, or nothing, unchanged."""
    if not value or isinstance(_json(value), (list, dict)) or value == "null":
        return value
    if origin is dict:
        if "=" not in value.partition(",")[0]:
            return value  # for the parser's own error
        return json.dumps(dict(pair.split("=", 1) for pair in re.split(r",(?=[^,=]*=)", value)))
    # A name that is JSON, as 12 or true, would be read as that.
    return json.dumps([path if _json(path) is None else f"./{path}" for path in _split_at_commas(value)])


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _split_at_commas(value: str) -> list[str]:
    """The paths of ``a,b``: cut at every comma, but not inside the longest part that is there."""
    pieces = value.split(",")
    if all(map(_is_there, pieces)):
        return pieces
    paths: list[str] = []
    while pieces:
        lengths = range(len(pieces), 1, -1)
        taken = next((n for n in lengths if _is_there(",".join(pieces[:n]))), 1)
        paths.append(",".join(pieces[:taken]))
        del pieces[:taken]
    return paths


def _is_there(path: str) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises where a name is too long


def _first_empty(given: Mapping[str, Any], prefix: str = "") -> str | None:
    """The first field given as an empty text (an empty path would mean the current folder), or None."""
    for name, value in given.items():
        inner = _first_empty(value, f"{prefix}{name}.") if isinstance(value, Mapping) else None
        if inner or value == "" or (isinstance(value, list) and "" in value):
            return inner or f"{prefix}{name}"
    return None


def one_line(error: Exception) -> str:
    """An error's message in one line; a validation error as ``field: rule (got value)``."""
    if isinstance(error, ValidationError):
        return "; ".join(_describe_validation(item) for item in error.errors())
    return " ".join(str(error).split()) or type(error).__name__


def _describe_validation(item: Mapping[str, Any]) -> str:
    field = ".".join(str(part) for part in item["loc"]) or "config"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"{field}: is required"
    if item["type"] == RENAMED:
        place = "".join(f"{part}." for part in item["loc"])
        return f"{place}{item['ctx']['old']} was renamed; use {place}{item['ctx']['new']}"
    if item["type"] == "extra_forbidden":
        return f"{field}: no such field"
    try:
        value = json.dumps(item["input"], default=str)
    except (TypeError, ValueError):
        value = str(item["input"])
    return f"{field}: {message} (got {value if len(value) <= 80 else value[:77] + '...'})"


def _usage(package: str, commands: Mapping[str, Command]) -> str:
    width = max(map(len, commands))
    rows = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in commands.items())
    return (
        f"usage: python -m {package} COMMAND [--store DIR | --output DIR] [--config FILE ... | --field value ...]\n\n"
        f"{rows}\n\n'python -m {package} COMMAND --help' explains a command's fields."
    )
