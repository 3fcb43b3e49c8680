"""Requests that `temwatch replay` makes from its command line, and the text of outcomes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from daemon.commands.replay.progress import outcome_line
from daemon.commands.replay.requests import MAX_PATHS, requests_for, requests_of
from daemon.pipeline.replay.lookup import NotSelectable
from daemon.temwatch import temwatch


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"since": "soon"}, "--since: 'soon' is not a time: expected 2h or 3d"),
        ({"since": "2100-01-01"}, "--since: '2100-01-01' is in the future"),
        ({"z": (float("nan"),)}, "--z: "),
        ({"from": "close"}, "--from: "),
        ({"state": "noticed"}, "--state: "),
    ],
)
def test_an_invalid_parameter_is_named(parameters, problem):
    with pytest.raises(NotSelectable) as refused:
        requests_for([], **parameters)
    assert str(refused.value).startswith(problem)
    assert "\n" not in str(refused.value)


def test_relative_paths_are_resolved_against_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (request,) = requests_for(["a/_metadata_1.json", "/b"])
    assert request.paths == (f"{tmp_path}/a/_metadata_1.json", "/b")


def test_a_time_is_sent_with_its_zone():
    (request,) = requests_for([], since="2026-01-05")
    assert request.since[:11] == "2026-01-05T"
    assert request.since[-6] in "+-"


def test_many_paths_are_split_into_several_requests():
    parts = requests_for([f"/data/{number}" for number in range(MAX_PATHS + 1)])
    assert [len(part.paths) for part in parts] == [MAX_PATHS, 1]


def test_each_montage_of_a_report_is_replayed_from_the_step_that_repairs_it():
    entries = [
        {"metafile": "/d/1.json", "from": "mipmaps", "montage": 1},
        {"metafile": "/d/2.json", "from": "apply"},
        {"metafile": "/d/3.json", "from": "mipmaps"},
        {"metafile": "/d/4.json", "from": None},
    ]
    report = json.dumps({"differences": [], "replay": entries})
    assert [(each.start, each.paths) for each in requests_of(report, None)] == [
        ("mipmaps", ("/d/1.json", "/d/3.json")),
        ("apply", ("/d/2.json",)),
    ]
    (all_,) = requests_of(report, "ingest", dry_run=True)
    assert (all_.start, len(all_.paths), all_.dry_run) == ("ingest", 4, True)


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"replay": [{"from": "apply"}]}', '{"replay": [{"metafile": "x"}]}']
)
def test_a_text_that_is_not_a_report_of_verify_is_refused(text):
    with pytest.raises(NotSelectable, match="is not a report of temwatch verify --json"):
        requests_of(text, None)


def test_one_z_option_takes_all_following_numbers(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(
        "daemon.commands.replay.requests.requests_for", lambda paths, **parameters: calls.append((paths, parameters))
    )
    settings = tmp_path / "none.toml"
    monkeypatch.setattr("daemon.commands.cli.montages.settings_or_exit", lambda path: calls.append(path) or _Quiet())
    monkeypatch.setattr("daemon.commands.cli.montages.log_warnings", lambda _: None)
    monkeypatch.setattr("daemon.commands.replay.command.replay", lambda *_: None)
    monkeypatch.setattr("daemon.commands.cli.montages.run_or_exit", lambda _: 0)
    line = ["replay", "/data", "--z", "1050", "-1", "2.5", "--state", "all", "--z", "7", "--config", str(settings)]
    assert CliRunner().invoke(temwatch, line).exit_code == 0
    paths, parameters = calls[1]
    assert (paths, parameters["z"], parameters["state"]) == (("/data",), (1050.0, -1.0, 2.5, 7.0), "all")


class _Quiet:
    class log:  # noqa: N801  as in the settings
        format = "json"


def test_an_outcome_names_the_failure_and_the_hint():
    row = {"state": "failed", "metafile": "/d/1.json", "waiting_for": None}
    fault = {"kind": "ImageFault", "subject": "/d/1.tif", "problem": "is truncated", "hint": "copy it again"}
    assert outcome_line(row | {"fault": fault}) == "failed      /d/1.json: /d/1.tif: is truncated (copy it again)"
    assert Path("/d/1.json").name in outcome_line(row | {"fault": None})
