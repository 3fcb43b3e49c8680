"""Interpret a metafile: derive z, stacks, tile ids and findings in a watch, without its images."""

import json
from collections.abc import Mapping
from pathlib import Path

from daemon.config.render_settings import RenderSettings
from daemon.config.stack_settings import StackTemplates
from daemon.config.watch_settings import WatchSettings
from daemon.montages.records import Settled
from handlers.acquisition.acquisition import Acquisition
from handlers.acquisition.findings import Finding, Severity
from handlers.acquisition.placement import bounds_of
from handlers.acquisition.tilespec import tile_ids_for, translations_for
from handlers.acquisition.z import ZRule, check_z, z_for
from handlers.errors import MAX_TEXT, Evidence, MetafileFault, RenderRefused, SettingsFault, ZFault
from handlers.render.names import StackId, legal_stack_name, template_fields
from handlers.text import abbreviate, shorten

FINDINGS_SHOWN = 10


def interpret_metafile(
    acquisition: Acquisition, path: Path, digest: str, watch: WatchSettings, render: RenderSettings
) -> Settled:
    """Return the settled values of an acquisition in a watch. Reads the z table, if the watch has one. Blocking.

    Parameters
    ----------
    digest : SHA-256 of the metafile.
    render : default owner and project of the stacks.

    Raises
    ------
    Fault
        If the metafile is inconsistent, or z or a valid stack name cannot be derived.
    """
    names, facts = watch.stacks.full_names(render.owner, render.project), watch.name_facts(acquisition)
    rule, z = _rule_and_z(acquisition, path, watch)
    checked = (*watch.reader.check(acquisition, path), *check_z(acquisition, z, rule))
    findings = _accepted(path, checked, strict=watch.strict)
    try:
        raw, mipmapped = (_stack_id(name, facts) for name in names)
    except RenderRefused as fault:
        problem = f"invalid stack name from its header: {fault.subject} {fault.problem}"
        raise MetafileFault(str(path), problem, fault.hint) from None
    options = watch.tilespec_options()
    ids = tile_ids_for(acquisition, z, options, str(path))
    places = translations_for(acquisition.tiles, options.positions, options.origin)
    raw_fields, mipmapped_fields = (_name_fields(name, facts) for name in names)
    return Settled(
        digest,
        z,
        str(raw),
        str(mipmapped),
        ids,
        findings,
        raw_fields,
        mipmapped_fields,
        section_id=options.section_id or str(float(z)),
        bounds=bounds_of(acquisition.tiles, places),
        output_dir=str(watch.mipmaps.output_dir),
        scope=acquisition.scope_id,
        tape=_tape(acquisition),
    )


def _tape(acquisition: Acquisition) -> str | None:
    named = acquisition.fact("media_id")
    return str(named) if named is not None else None


def _rule_and_z(acquisition: Acquisition, path: Path, watch: WatchSettings) -> tuple[ZRule, float]:
    table = watch.z.table
    before = Evidence.of(table) if table else None
    try:
        rule = watch.to_z_rule()
        return rule, z_for(acquisition, path, rule)
    except (ZFault, SettingsFault) as fault:
        raise fault.with_evidence(before) if before else fault from None


def _accepted(path: Path, findings: tuple[Finding, ...], *, strict: bool) -> tuple[str, ...]:
    """Return the findings as texts. Raises MetafileFault for errors, and with `strict` also for warnings."""
    refused = [finding.text for finding in findings if strict or finding.severity is Severity.ERROR]
    if refused:
        hint = (
            "with strict = false warnings do not stop a montage"
            if strict
            else "check the program that wrote this metafile"
        )
        raise MetafileFault(str(path), abbreviate(refused, FINDINGS_SHOWN, "; "), hint)
    return tuple(shorten(finding.text, MAX_TEXT) for finding in findings)


def _name_fields(name: StackTemplates, facts: Mapping[str, object]) -> str | None:
    """Return the header fields in a stack's full name as JSON; None if it has none."""
    values = {field: str(facts[field]) for template in name for field in template_fields(template)}
    return json.dumps(values, sort_keys=True) if values else None


def _stack_id(name: StackTemplates, facts: Mapping[str, object]) -> StackId:
    return StackId(*(legal_stack_name(template, facts) for template in name))
