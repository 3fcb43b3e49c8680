"""Which montages a selection matches, and what a replay does with each."""

import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from daemon.montages.records import Montage
from daemon.montages.states import MontageState, Step
from daemon.pipeline.replay.selection import (
    Action,
    Candidate,
    OnDisk,
    Place,
    ReplayRequest,
    Selection,
    is_glob,
    is_selected,
    parse_since,
    plan,
)
from handlers.identity import FileIdentity

NOW = datetime(2026, 7, 2, 12, 0, tzinfo=timezone(timedelta(hours=2)))
PATH = Path("/data/temca2/20170829/_metadata_1.json")


def montage(state: str = "complete", **changes) -> Montage:
    row = Montage(
        id=7,
        watch="temca2",
        metafile=PATH,
        digest="aa",
        identity=(10, 20, 30),
        acquired=PATH.name,
        state=MontageState(state),
        failed_in=None,
        z=1050.0,
        raw_stack="em/v1/raw",
        mipmapped_stack="em/v1/mips",
        tile_count=4,
        findings=(),
        fault=None,
        waiting_for=None,
        attempt=0,
        crashes=0,
        noticed_at=100.0,
        changed_at=200.0,
        complete_at=None,
    )
    return replace(row, **changes)


def candidate(*known: Montage, named: bool = False, digest: str | None = "aa", **changes) -> Candidate:
    return Candidate("temca2", PATH, known, OnDisk(FileIdentity(10, 150 * 10**9, 0, 30), digest, **changes), named)


# --- times


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2h", "2026-07-02T10:00:00+02:00"),
        ("3d", "2026-06-29T12:00:00+02:00"),
        ("1.5h", "2026-07-02T10:30:00+02:00"),
        ("2026-07-01", "2026-07-01T00:00:00+02:00"),
        ("2026-07-01T18:30", "2026-07-01T18:30:00+02:00"),
        ("2026-07-01T18:30Z", "2026-07-01T18:30:00+00:00"),
        ("2026-07-01T18:30-05:00", "2026-07-01T18:30:00-05:00"),
    ],
)
def test_a_time_is_relative_or_iso_8601_and_local_without_a_zone(text, expected):
    assert parse_since(text, NOW).isoformat() == expected


@pytest.mark.parametrize("text", ["", "yesterday", "2h ago", "-2h", "2026-13-01", "9" * 400 + "d", "1e3h"])
def test_an_invalid_time_is_refused_with_examples(text):
    with pytest.raises(ValueError, match="expected 2h or 3d"):
        parse_since(text, NOW)


def test_a_time_in_the_future_is_refused():
    with pytest.raises(ValueError, match="is in the future"):
        parse_since("2027-01-01", NOW)


@given(st.text(max_size=30))
def test_every_text_is_parsed_or_refused(text):
    with contextlib.suppress(ValueError):
        assert parse_since(text, datetime.now(UTC)).tzinfo is not None


# --- places


@pytest.mark.parametrize(
    ("pattern", "path", "covered"),
    [
        ("/data/temca2", "/data/temca2/a/x.json", True),
        ("/data/temca2", "/data/temca22/x.json", False),
        ("/data/temca2/a/x.json", "/data/temca2/a/x.json", True),
        ("/", "/data/x.json", True),
        ("/data/*", "/data/temca2/a/x.json", True),
        ("/data/*/x.json", "/data/temca2/a/x.json", False),
        ("/data/**/x.json", "/data/temca2/a/x.json", True),
        ("/data/**/x.json", "/data/x.json", True),
        ("/data/temca2/2017*/_meta*", "/data/temca2/20170829/_metadata_1.json", True),
        ("/data/temca?/a/[xy].json", "/data/temca2/a/y.json", True),
        ("/data/temca2/**", "/data/temca2/a/x.json", True),
        ("/data/*.json/x", "/data/a.json", False),
    ],
)
def test_a_place_covers_itself_and_everything_below(pattern, path, covered):
    assert Place(pattern, is_glob(pattern)).covers(path) is covered


def test_a_glob_of_many_stars_is_matched_in_linear_time():
    assert not Place("/**/a" * 40 + "/b", is_glob=True).covers("/a" * 60)


def test_the_stem_is_the_part_before_the_first_wildcard():
    assert Place("/data/temca2/2017*/**/x.json", is_glob=True).stem == "/data/temca2"
    assert Place("/data/temca2", is_glob=False).stem == "/data/temca2"


# --- requests


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"from": "settle"}, "from"),
        ({"state": "noticed"}, "state"),
        ({"paths": ["relative"]}, "paths"),
        ({"paths": "/data"}, "paths"),
        ({"z": ["a"]}, "z"),
        ({"z": [float("nan")]}, "z"),
        ({"since": "soon"}, "since"),
        ({"sinse": "2h"}, "sinse"),
        ({"dry_run": "perhaps"}, "dry_run"),
    ],
)
def test_an_invalid_request_names_the_key(body, named):
    with pytest.raises(ValidationError) as refused:
        ReplayRequest.model_validate(body)
    assert refused.value.errors()[0]["loc"][0] == named


# --- which montages are selected


@pytest.mark.parametrize(
    ("state", "requested", "named", "selected"),
    [
        ("failed", None, False, True),
        ("complete", None, False, False),
        ("complete", None, True, True),
        ("ingested", None, True, True),
        ("ignored", None, True, True),
        ("complete", "failed", True, False),
        ("complete", "complete", False, True),
        ("dismissed", "dismissed", False, True),
        ("dismissed", "all", False, False),
        ("dismissed", None, False, False),
        ("failed", "dismissed", False, False),
        ("ingested", "all", False, True),
        ("superseded", "all", False, False),
        ("ignored", "all", False, False),
    ],
)
def test_failed_montages_are_selected_and_named_ones_in_any_state(state, requested, named, selected):
    chosen = candidate(montage(state), named=named)
    assert is_selected(chosen, Selection(state=requested), None) is selected


def test_every_given_condition_must_match():
    chosen = candidate(montage("failed"))
    assert is_selected(chosen, Selection(z=(1050.0, 7.0)), 200.0)
    assert not is_selected(chosen, Selection(z=(7.0,)), None)
    assert not is_selected(chosen, Selection(), 200.5)


def test_an_unknown_metafile_is_selected_unless_complete_or_dismissed_ones_are_requested():
    assert is_selected(candidate(), Selection(), 150.0)
    assert is_selected(candidate(), Selection(state="failed"), None)
    assert not is_selected(candidate(), Selection(state="complete"), None)
    assert not is_selected(candidate(), Selection(state="dismissed"), None)
    assert not is_selected(candidate(), Selection(), 151.0)
    assert not is_selected(candidate(), Selection(z=(1.0,)), None)
    assert is_selected(candidate(z=1.0), Selection(z=(1.0,)), None)


def test_an_unknown_metafile_with_an_ignored_name_is_selected_only_by_name():
    assert not is_selected(replace(candidate(), ignored_by="*_reference_*"), Selection(), None)
    assert is_selected(replace(candidate(named=True), ignored_by="*_reference_*"), Selection(), None)


# --- the action for each montage


def failed(failed_in: str, **changes) -> Montage:
    return montage("failed", failed_in=MontageState(failed_in), **changes)


@pytest.mark.parametrize(
    ("row", "step", "start"),
    [
        (montage("complete"), Step.INGEST, "settled"),
        (montage("complete"), Step.MIPMAPS, "ingested"),
        (montage("complete"), Step.APPLY, "mipmapped"),
        (failed("applied"), Step.INGEST, "settled"),
        (failed("applied"), Step.APPLY, "mipmapped"),
        (failed("ingested"), Step.INGEST, "settled"),
        (failed("ingested"), Step.APPLY, "ingested"),
        (failed("noticed", digest=None), Step.INGEST, "noticed"),
        (failed("noticed"), Step.APPLY, "noticed"),
    ],
)
def test_a_replay_starts_at_its_step_or_where_the_montage_failed_before(row, step, start):
    planned = plan(candidate(row), step)
    assert (planned.action, planned.start) == (Action.REPLAY, start)


def test_the_note_states_that_a_montage_never_reached_the_step():
    assert "never settled; it starts with the first step" in plan(candidate(failed("noticed")), Step.APPLY).note
    assert "never reached apply; it resumes where it failed" in plan(candidate(failed("ingested")), Step.APPLY).note


def test_an_unfinished_montage_is_waited_for_even_if_its_file_is_missing():
    missing = replace(candidate(montage("ingested")), on_disk=None)
    assert plan(missing, Step.INGEST).action is Action.WAIT


def test_a_metafile_that_is_missing_or_cannot_be_read_is_refused():
    assert plan(replace(candidate(montage()), on_disk=None), Step.INGEST).action is Action.REFUSE
    refused = plan(candidate(montage(), unreadable="cannot be read: I/O error"), Step.INGEST)
    assert (refused.action, refused.note) == (Action.REFUSE, "cannot be read: I/O error")


def test_old_content_never_replaces_the_present_content():
    old, new = montage("superseded", id=1, digest="old"), montage("complete", id=2, digest="new")
    planned = plan(candidate(new, old, digest="new", named=True), Step.INGEST)
    assert (planned.action, planned.montage_id) == (Action.REPLAY, 2)
    unseen = plan(candidate(old, digest="unseen", named=True), Step.INGEST)
    assert (unseen.action, unseen.montage_id) == (Action.NOTICE, None)


def test_a_noticed_metafile_is_waited_for_even_if_its_content_is_known():
    arriving, before = montage("noticed", id=2, digest=None), failed("noticed", id=1, digest="same")
    planned = plan(candidate(arriving, before, digest="same", named=True), Step.INGEST)
    assert (planned.action, planned.montage_id) == (Action.WAIT, 2)


def test_a_superseded_content_that_is_present_again_is_noticed():
    old, new = montage("superseded", id=1, digest="old"), montage("complete", id=2, digest="new")
    planned = plan(candidate(new, old, digest="old", named=True), Step.APPLY)
    assert planned.action is Action.NOTICE
    assert "superseded" in planned.note


def test_an_ignored_set_is_refused_with_the_reason():
    row = montage("ignored", waiting_for="a lens-correction set, and reference_sets = ignore")
    refused = plan(candidate(row, named=True), Step.INGEST)
    assert refused.action is Action.REFUSE
    assert "the watch temca2 ignores it: a lens-correction set" in refused.note
