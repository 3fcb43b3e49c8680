"""The dashboard for Grafana and the alert rules for Prometheus name metrics and labels that exist."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from daemon.montages.states import MontageState, Step
from daemon.pipeline.health import HookFacts
from handlers.quality.rules import Verdict
from handlers.workers.crew import Crew, Member
from tests.integration.paged import paged
from tests.ready_facts import READY

MONITORING = Path(__file__).resolve().parents[2] / "monitoring"
RULES = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))
BOARD = json.loads((MONITORING / "grafana.json").read_text(encoding="utf-8"))
EXPRESSIONS = [
    *(rule["expr"] for group in RULES["groups"] for rule in group["rules"]),
    *(target["expr"] for panel in BOARD["panels"] for target in panel["targets"]),
]
NAME = re.compile(r"\btemwatch_\w+")
LABELLED = re.compile(r"(temwatch_\w+)\{([^}]*)\}")
GROUPED = re.compile(r"by \(([^)]*)\) \((?:rate|increase)?\(?(temwatch_\w+)")
NOT_SHOWN = {
    "temwatch_mipmap_files_total",  # equals tiles times levels
    "temwatch_mipmap_files",
    "temwatch_watch_directories",  # of interest in the log, not as a curve
    *(f"temwatch_{each}" for each in ("tiles_mipmapped", "mipmap_bytes", "worker_deaths", "attempts", "verdicts")),
    "temwatch_hook_attempts",
}
"""Metrics in neither file. Names without "_total" are the start times that the client library adds to counters."""
LABELS_OF_PROMETHEUS = frozenset({"instance", "job"})


async def samples(tmp_path: Path) -> dict[str, list[dict[str, str]]]:
    """Return the labels of each sample of a daemon that has processed montages."""
    async with paged(tmp_path) as pages:
        await pages.reached(1, MontageState.COMPLETE)
        await pages.failed(2)
        for step in Step:
            pages.metrics.attempt_ended(step, "done", 1.0)
            pages.metrics.attempt_ended(step, "failed", 1.0)
        for verdict in Verdict:
            pages.metrics.verdicts.labels("temca2", verdict).inc()
        for outcome in ("delivered", "failed", "dead"):
            pages.metrics.hook_events.labels("workflow", outcome).inc()
        hook = HookFacts("workflow", waiting=2, dead=1, oldest_s=60.0, problem="no answer")
        crew = Crew((Member("node7", 2, 1), Member("node8", problem="blind", is_usable=False)), 3, "tcp://s:8786")
        pages.facts = replace(READY, crew=crew, hooks=(hook,), disks=(replace(READY.disks[0], full_in_s=3600.0),))
        async with pages.client.get("/metrics") as answer:
            text = await answer.text()
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(dict(sample.labels))
    return found


async def test_every_metric_and_label_in_the_dashboard_and_the_rules_exists(tmp_path):
    known = await samples(tmp_path)
    named = {name for text in EXPRESSIONS for name in NAME.findall(text)}
    assert len(named) > 15
    assert sorted(named - set(known)) == []
    shown = {re.sub("_(bucket|count|sum|created)$", "", name) for name in named}
    unshown = {re.sub("_(bucket|count|sum|created)$", "", name) for name in known} - shown
    assert unshown <= NOT_SHOWN, "a new metric: show it, or add it to NOT_SHOWN with the reason"
    for text in EXPRESSIONS:
        for name, labels in LABELLED.findall(text):
            for label, _, value in re.findall(r'(\w+)(!?=)"([^"]*)"', labels):
                values = {each.get(label) for each in known[name]}
                assert value in values, f"{name}{{{label}}} is never {value}: {text}"
        for labels, name in GROUPED.findall(text):
            have = set().union(*known[name])
            assert set(re.split(r",\s*", labels)) - LABELS_OF_PROMETHEUS <= have, text


def test_the_texts_of_a_rule_use_only_labels_that_its_expression_keeps():
    for group in RULES["groups"]:
        for rule in group["rules"]:
            used = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))) - LABELS_OF_PROMETHEUS
            if kept := re.search(r"by \(([^)]*)\)", rule["expr"]):
                assert used <= set(re.split(r",\s*", kept[1])), rule["alert"]


def test_the_panels_do_not_overlap():
    occupied: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not occupied & cells, panel["title"]
        assert max(x for x, _ in cells) < 24
        occupied |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_accepts_the_rules():
    done = subprocess.run(
        ["promtool", "check", "rules", str(MONITORING / "alerts.yml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
