"""What a team sets once in Prefect and no preset can know: where the data lie, and the commands' environment.

Prefect variables (`prefect variable set NAME VALUE`, or the Variables page):

- ``market1501_root``, ``deepfashion_root``: the unpacked data set, for runs that give no `root` themselves;
- ``market1501_poses``, ``deepfashion_poses``: its keypoint file, or a JSON list of them;
- ``report_url``: where the reports ``runs/PRESET`` are served, for links that open in a browser;
- ``alert_gain_points``, ``alert_data_percent``: from where on a fallen gain or shrunken data are told;
- ``command_environment``: a JSON object of environment variables for the commands.

Secrets of the same kind go into a Secret block named ``command-environment`` whose value is such an object.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from prefect.blocks.system import Secret
from prefect.variables import Variable

from datasets.runtime.errors import InputError
from datasets.runtime.manifests import local_path
from flows.config import RegenerateConfig

REPORT_URL = re.compile(r"https?://[^\s<>\x00-\x1f]+|[^\s<>:\x00-\x1f]+", re.IGNORECASE)
"""An http address, or a path; browsers drop control characters, so ``java<TAB>script:`` is no path."""
ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def with_data_of_the_site(config: RegenerateConfig) -> RegenerateConfig:
    """The settings, with data set and keypoints from the variables if the run names none."""
    if config.root is not None or config.miniature is not None:
        return config
    root, poses = (Variable.get(f"{config.layout}_{what}", default=None) for what in ("root", "poses"))
    if root is None:
        raise InputError(
            f"preset '{config.preset}' works on your data: give 'root' and 'poses', or set the Prefect variables "
            f"{config.layout}_root and {config.layout}_poses"
        )
    found = poses if isinstance(poses, list) else [poses] if poses else []
    update = {
        "root": local_path(str(root)),
        **({} if config.poses else {"poses": [local_path(str(path)) for path in found]}),
    }
    return config.model_copy(update=update)


def command_environment() -> dict[str, str]:
    """Environment variables for the commands, from the variable and the secret block; no value is ever logged."""
    variables = _object(Variable.get("command_environment", default=None) or {}, "variable command_environment")
    try:
        block = cast(Secret[Any], Secret.load("command-environment"))  # a coroutine in an asynchronous flow only
        secret: Any = block.get()
    except ValueError:  # no such block
        secret = {}
    return {**variables, **_object(secret, "Secret block command-environment")}


def _object(value: Any, name: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise InputError(f'{name} must be a JSON object such as {{"NAME": "value"}}')
    environment = {str(key): str(item) for key, item in value.items()}
    for key, item in environment.items():
        if not ENVIRONMENT_NAME.fullmatch(key) or "\0" in item:
            raise InputError(f"{name}: {key!r} is no environment variable's name, or its value holds a NUL; correct it")
    return environment


def report_link(report: Path) -> str | None:
    """The report's address under the variable ``report_url``; None where that is not set or cannot reach it."""
    base, runs = report_url(), Path("runs").absolute()
    if not base or not report.is_relative_to(runs):
        return None
    return f"{base.rstrip('/')}/{quote(report.relative_to(runs).as_posix())}"


def report_url() -> str | None:
    """The variable of that name; None if it is not set.

    Raises:
        InputError: neither an http address nor a path: a link that runs a script, for example.
    """
    value = Variable.get("report_url", default=None)
    if not value:
        return None
    if not REPORT_URL.fullmatch(str(value)):
        raise InputError(
            f"variable report_url is '{value}'; give an address that begins with http:// or https://, or a path"
        )
    return str(value)


def check_site() -> None:
    """Refuse variables that would be of no use when the work is done.

    Raises:
        InputError: see `report_url` and `command_environment`.
    """
    report_url()
    command_environment()
