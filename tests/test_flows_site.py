"""What a team sets in Prefect: refused where it could run something, or would fail when the work is done."""

from __future__ import annotations

import sys

import pytest

from datasets.runtime import registry
from datasets.runtime.command_line import main as package_main
from datasets.runtime.errors import InputError
from flows import regenerate
from flows.__main__ import print_result
from flows.config import RegenerateConfig
from flows.process.commands import CommandError
from flows.server import site
from reid.__main__ import COMMANDS


@pytest.fixture
def variables(monkeypatch):
    values = {}
    monkeypatch.setattr(site.Variable, "get", lambda name, default=None: values.get(name, default))
    monkeypatch.setattr(site.Secret, "load", lambda name: (_ for _ in ()).throw(ValueError("no such block")))
    return values


@pytest.mark.parametrize(
    "value",
    [
        "javascript:alert(1)",
        "JavaScript:alert(1)//",
        "java\tscript:alert(1)",
        " javascript:alert(1)",
        "data:text/html,<script>",
        "file:///etc/passwd",
        "vbscript:x",
        "http://a b",
        "http://x> [y](javascript:z",
        "ftp://x",
    ],
)
def test_a_report_url_that_is_no_http_address_or_path_is_refused(variables, value):
    variables["report_url"] = value
    for ask in (site.report_url, site.check_site):
        with pytest.raises(InputError, match=r"report_url is .*; give an address that begins with http://") as error:
            ask()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["http://127.0.0.1:4280", "HTTPS://host/runs/", "/reports", "reports/here"])
def test_an_http_address_or_a_path_leads_to_the_report(variables, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    variables["report_url"] = value
    report = tmp_path / "runs" / "a) b[`" / "report.html"
    assert site.report_link(report) == f"{value.rstrip('/')}/a%29%20b%5B%60/report.html"
    assert site.report_link(tmp_path / "elsewhere" / "report.html") is None


@pytest.mark.parametrize("name", ["", "A=B", "A B", "A\0", "1A", "A\n", "Ä"])
def test_a_name_that_is_no_environment_variables_is_refused_in_one_line(variables, name):
    variables["command_environment"] = {name: "x"}
    with pytest.raises(InputError, match=r"variable command_environment: .* is no environment variable's name"):
        site.command_environment()
    variables["command_environment"] = {"GOOD": "a\0b"}
    with pytest.raises(InputError, match="its value holds a NUL"):
        site.command_environment()
    variables["command_environment"] = {"GOOD_1": 7}
    assert site.command_environment() == {"GOOD_1": "7"}


@pytest.mark.parametrize("name", ["./shop.py", "..shop", "shop/x", "1x", "a..b", "a-b", "x:y"])
def test_an_extension_that_is_no_modules_name_is_told_in_one_line_with_exit_code_2(monkeypatch, capsys, name):
    monkeypatch.setenv(registry.EXTENSIONS, name)
    assert package_main("reid", COMMANDS, ["train", "--arm", "unheard", "--shards", "x"]) in (2,)
    with pytest.raises(InputError, match="is no module's name"):
        registry.load_extensions()
    assert capsys.readouterr().err.count("\n") == 1


def test_an_extension_that_is_no_python_is_told_in_one_line(monkeypatch, tmp_path):
    (tmp_path / "broken_shop.py").write_text("def (:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(registry.EXTENSIONS, "broken_shop")
    with pytest.raises(InputError, match="cannot import 'broken_shop'"):
        registry.load_extensions()
    sys.modules.pop("broken_shop", None)


def test_what_a_flow_refuses_is_one_line_and_exit_code_2(capsys):
    def run():
        raise InputError("variable report_url is\nwrong")

    assert print_result("python -m flows regenerate", run) == 2
    assert capsys.readouterr().err.strip() == "python -m flows regenerate: variable report_url is wrong"


@pytest.mark.parametrize("name", ["alert_gain_points", "alert_data_percent"])
@pytest.mark.parametrize("value", ["two", "nan", "inf", "-1", [2], pytest.param(10**400, id="huge")])
def test_a_limit_of_the_alerts_that_is_no_number_is_refused_before_any_work(variables, monkeypatch, name, value):
    variables[name] = value
    monkeypatch.setattr(regenerate, "check", lambda *_: pytest.fail("the limit was not looked at first"))
    with pytest.raises(InputError, match=f"variable {name} must be a number from 0"):
        regenerate.regenerate.fn(RegenerateConfig(preset="smoke"))


@pytest.mark.parametrize("code", [2, 74, 75, 143])
def test_a_command_ends_with_the_exit_code_of_what_it_ran_where_that_says_what_to_do(code, tmp_path):
    def run():
        raise CommandError(["a"], code, [], tmp_path)

    assert print_result("python -m flows direct", run) == code


def test_any_other_exit_code_is_a_defect_of_ours(tmp_path):
    def run():
        raise CommandError(["a"], 139, [], tmp_path)

    assert print_result("python -m flows direct", run) == 1
