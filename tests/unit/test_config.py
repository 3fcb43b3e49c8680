"""Settings: which values are accepted, and how refused values are reported."""

import os
import pickle
import tomllib
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from daemon.config.errors import ConfigError
from daemon.config.files import read_token
from daemon.config.load import config_path, load_settings
from daemon.config.reference import example_toml, reference_markdown
from daemon.config.settings import Settings
from daemon.config.text import plain_fields, sections, toml_value
from daemon.watching.mounts import Mount
from handlers.acquisition.z import ZRuleKind
from handlers.images.encode import Encoding
from handlers.images.reduction import Reduction
from handlers.mipmaps.plan import Level0, level_uris
from tests.settings_text import settings_text

ROOT = Path(__file__).resolve().parents[2]

SMALLEST = settings_text(url="http://render:8080/render-ws/v1/")

SECOND = "[[watch]]" + settings_text("/data/temca3", name="temca3").partition("[[watch]]")[2]
"""A second watch."""

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TEMWATCH_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(text)
        return path

    return to_file


def problems_of(path: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refusal:
        load_settings(path)
    return refusal.value.problems


def problem_of(path: Path) -> str:
    (problem,) = problems_of(path)
    return problem


def changed(old: str, new: str, text: str = SMALLEST) -> str:
    assert old in text
    return text.replace(old, new)


# --- accepted


def test_the_example_file_equals_the_model_and_loads() -> None:
    assert (ROOT / "config.example.toml").read_text() == example_toml(), "run: make config-example"
    assert load_settings(ROOT / "config.example.toml").watch[0].name == "temca2"


def test_the_reference_page_equals_the_model() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == reference_markdown(), (
        "run: python -m daemon.config.reference > docs/configuration.md"
    )


def test_the_example_has_the_values_of_the_published_configuration() -> None:
    settings = load_settings(ROOT / "config.example.toml")
    watch = settings.watch[0]
    assert settings.render.model_dump() == {
        "url": "http://render:8080/render-ws/v1",
        "owner": "em",
        "project": "v1",
        "username": "",
        **dict.fromkeys(("password_file", "token_file", "headers_file")),
        **dict.fromkeys(("ca_file", "client_certificate_file", "client_key_file")),
        "use_environment_proxy": False,
        "clear_image_cache": True,
        "path_map": (),
    }
    assert str(settings.journal.path) == "/var/lib/temwatch/journal.sqlite"
    assert (settings.http.host, settings.http.port, settings.http.token_file) == ("127.0.0.1", 8787, None)
    assert (settings.workers.executor, settings.workers.count, settings.workers.dask_scheduler) == (
        "processes",
        0,
        None,
    )
    assert (str(watch.directory), watch.pattern, watch.ignore) == (
        "/data/temca2",
        "_metadata_*.json",
        ("*_reference_*",),
    )
    assert (watch.scan_interval_s, watch.settle_s, watch.arrival_timeout_s) == (60, 2, 3600)
    assert (watch.z.rule, watch.z.offset, watch.z.offsets_by_media) == (ZRuleKind.GRID, 0, {})
    assert (watch.stacks.raw, watch.stacks.mipmapped) == ("{specimen_id}_raw", "{specimen_id}_mips")
    stacks = watch.stacks
    assert (stacks.close, stacks.close_after_s, stacks.close_at_latest_s, stacks.resolution_z) == (True, 60, 900, 45.0)
    assert (watch.tilespecs.minimum_intensity, watch.tilespecs.maximum_intensity, watch.tilespecs.mask) == (
        0,
        255,
        None,
    )
    assert (str(watch.mipmaps.output_dir), watch.mipmaps.method, watch.mipmaps.levels) == (
        "/data/mipmaps",
        "block_reduce",
        6,
    )
    assert (watch.mipmaps.format, watch.mipmaps.convert_to_8bit, watch.mipmaps.apply) == ("tiff", True, "tiles")


def test_the_required_keys_are_enough(write: Write) -> None:
    settings = load_settings(write(SMALLEST))
    assert settings.render.url == "http://render:8080/render-ws/v1"
    assert settings.watch[0].stacks.mipmapped is None
    assert settings.watch[0].mipmap_plan().extension == "tif"
    assert settings.watch[0].watch_root().directory == Path("/data/temca2")
    assert settings.watch[0].to_z_rule().rule is ZRuleKind.GRID
    assert settings.watch[0].tilespec_options().tile_id == "{basename}.{z}"


def test_settings_are_frozen(write: Write) -> None:
    settings = load_settings(write(SMALLEST))
    with pytest.raises(ValueError, match="frozen"):
        settings.watch[0].mipmaps.levels = 2


def test_the_caller_overrides_the_environment_which_overrides_the_file(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(SMALLEST + "[http]\nport = 1\nhost = 'localhost'\n")
    monkeypatch.setenv("TEMWATCH_HTTP__PORT", "2")
    monkeypatch.setenv("TEMWATCH_RENDER__URL", "embedded")
    settings = load_settings(path, {"http": {"port": 3}})
    assert (settings.http.port, settings.http.host, settings.render.embedded) == (3, "localhost", True)
    assert load_settings(path).http.port == 2


def test_the_environment_can_set_keys_of_one_of_several_watches(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMWATCH_WATCH__1__MIPMAPS__OUTPUT_DIR", "/scratch")
    monkeypatch.setenv("TEMWATCH_WATCH__1__IGNORE", '["*.bak"]')
    first, second = load_settings(write(SMALLEST + SECOND)).watch
    assert (str(first.mipmaps.output_dir), first.ignore) == ("/data/mipmaps", ("*_reference_*",))
    assert (str(second.mipmaps.output_dir), second.ignore) == ("/scratch", ("*.bak",))


def test_settings_made_directly_read_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMWATCH_HTTP__PORT", "2")
    values: dict[str, Any] = {
        "render": {"url": "embedded", "owner": "em", "project": "v1"},
        "watch": [{"name": "a", "directory": "/a", "z": {"rule": "grid"}, "mipmaps": {"output_dir": "/m"}}],
    }
    assert Settings(**values).http.port == 8787


def test_the_option_overrides_the_variable_and_the_default_of_the_configuration_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert config_path(None) == Path("/etc/temwatch/config.toml")
    monkeypatch.setenv("TEMWATCH_CONFIG", "/elsewhere.toml")
    assert config_path(None) == Path("/elsewhere.toml")
    assert config_path(Path("/given.toml")) == Path("/given.toml")


# --- refused, one line per key


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"grid"', '"gird"', "watch[0].z.rule: 'gird' is not one of header, grid, name, table, depth, fixed"),
        ('owner = "em"', "", "render.owner: is required: owner of the stacks in render-ws"),
        ("[watch.z]", "patern = 'x'\n[watch.z]", "watch[0].patern: is not a known key; did you mean 'pattern'?"),
        ('"/data/temca2"', '"data"', "watch[0].directory: 'data' is not an absolute path"),
        ('"/data/temca2"', '"/a/../b"', "watch[0].directory: '/a/../b' contains '..': write"),
        ('"/data/temca2"', "3", "watch[0].directory: 3 is not an absolute path in quotes"),
        ('"em"', '"e__m"', "render.owner: 'e__m' is not a legal name in render-ws (use letters and digits"),
        ("http://render", "render", "render.url: 'render:8080/render-ws/v1/' is not an address of render-ws"),
        ("[watch.z]", "settle_s = -1\n[watch.z]", "watch[0].settle_s: -1 is out of range: at least 0"),
        ("[watch.z]", "settle_s = nan\n[watch.z]", "watch[0].settle_s: nan is not a finite number"),
        ("[watch.z]", "settle_s = 'x'\n[watch.z]", "watch[0].settle_s: 'x' is not a number"),
        ("[watch.z]", "settle_s = '2 s'\n[watch.z]", "watch[0].settle_s: '2 s' is not a number of seconds"),
        ("[watch.z]", "settle_s = true\n[watch.z]", "watch[0].settle_s: true is not a number of seconds"),
        ("output_dir", "levels = true\noutput_dir", "watch[0].mipmaps.levels: true is not a whole number"),
        (
            "output_dir",
            "min_free_bytes = '1 GB'\noutput_dir",
            "watch[0].mipmaps.min_free_bytes: '1 GB' is not a whole number of bytes",
        ),
        ("[watch.z]", "strict = 'perhaps'\n[watch.z]", "watch[0].strict: 'perhaps' is not true or false"),
        ("[watch.z]", "ignore = 'x'\n[watch.z]", "watch[0].ignore: 'x' is not a list"),
        ("[watch.z]", "pattern = 'a/b'\n[watch.z]", "watch[0].pattern: 'a/b' is not a pattern for a file name"),
        ('"temca2"', '"temca 2"', "watch[0].name: 'temca 2' is not made of letters, digits, '.', '_' and '-' only"),
        ("output_dir", "levels = 0\noutput_dir", "watch[0].mipmaps.levels: 0 is out of range: at least 1, at most 12"),
        ("output_dir", "levels = 1.5\noutput_dir", "watch[0].mipmaps.levels: 1.5 is not a whole number"),
        (
            "output_dir",
            "format = 'bmp'\noutput_dir",
            "watch[0].mipmaps.format: 'bmp' is not one of tiff, tif, png, jpg, jpeg",
        ),
        ("output_dir", "range_16bit = [9, 3]\noutput_dir", "watch[0].mipmaps.range_16bit: [9, 3] are not two"),
        (
            "output_dir",
            "method = 'nope'\noutput_dir",
            "watch[0].mipmaps.method: 'nope' is not one of block_reduce, PIL",
        ),
        ("output_dir", "function = 'sum'\noutput_dir", "watch[0].mipmaps.function: 'sum' is not one of mean, median"),
        (
            "output_dir",
            "method = 'render'\nfunction = 'min'\noutput_dir",
            "watch[0].mipmaps.function: is only valid with",
        ),
        ("output_dir", "method = 'PIL'\noutput_dir", "watch[0].mipmaps.filter: is required with method"),
        ("output_dir", "method = 'PIL'\nfilter = 'FOO'\noutput_dir", "watch[0].mipmaps.filter: 'FOO' is not one of"),
        ("output_dir", "filter = 'BOX'\noutput_dir", 'watch[0].mipmaps.filter: is only valid with method = "PIL"'),
        ("output_dir", "quality = 90\noutput_dir", "watch[0].mipmaps.quality: tif has none"),
        (
            "output_dir",
            "compression = 'zstd'\noutput_dir",
            "watch[0].mipmaps.compression: 'zstd' is not one of none, lzw",
        ),
        (
            "output_dir",
            "format = 'png'\ncompression = 12\noutput_dir",
            "watch[0].mipmaps.compression: 12 is not one of 0",
        ),
        ("[[watch]]", "[http]\nport = 99999\n[[watch]]", "http.port: 99999 is out of range: at least 0, at most 65535"),
        (
            "[[watch]]",
            "[workers]\nexecutor = 'dask'\n[[watch]]",
            'workers.dask_scheduler: is required with executor = "dask"',
        ),
        (
            "[[watch]]",
            "[workers]\ndask_scheduler = 'x'\n[[watch]]",
            'workers.dask_scheduler: is only valid with executor = "dask"',
        ),
        ('rule = "grid"', 'rule = "fixed"', 'watch[0].z.z: is required with rule = "fixed"'),
        ('rule = "grid"', 'rule = "table"', 'watch[0].z.table: is required with rule = "table"'),
        ('rule = "grid"', 'rule = "grid"\nz = 3', 'watch[0].z.z: is only valid with rule = "fixed", and'),
    ],
)
def test_a_wrong_value_is_reported_with_its_key_and_the_allowed_values(
    write: Write, old: str, new: str, expected: str
) -> None:
    assert problem_of(write(changed(old, new))).startswith(expected)


@pytest.mark.parametrize(
    ("section", "line", "expected"),
    [
        ("z", 'name_pattern = "[0-9]+"', "watch[0].z.name_pattern: '[0-9]+' has no group z"),
        ("z", 'name_pattern = "("', "watch[0].z.name_pattern: should be a regular expression, is '('"),
        (
            "stacks",
            'raw = "{specimen}_raw"',
            "watch[0].stacks.raw: '{specimen}_raw' names {specimen}, which is not",
        ),
        ("stacks", 'raw = "{specimen_id"', "watch[0].stacks.raw: '{specimen_id' is not a template of a stack name"),
        ("tilespecs", 'tile_id = "{name}"', "watch[0].tilespecs.tile_id: {name} is not one of basename, z"),
        ("tilespecs", "minimum_intensity = 255", "watch[0].tilespecs.minimum_intensity: 255 is not below"),
    ],
)
def test_a_template_or_pattern_is_checked_when_settings_are_loaded(
    write: Write, section: str, line: str, expected: str
) -> None:
    rule = 'rule = "grid"'
    new = f'rule = "name"\n{line}' if section == "z" else f"{rule}\n[watch.{section}]\n{line}"
    assert problem_of(write(changed(rule, new))).startswith(expected)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[[watch]]", "[watch]", "watch: write [[watch]] in double brackets above each watch: there may be several"),
        ("[render]", "[[render]]", "render: write [render] in single brackets: there is only one"),
        ("[watch.z]", "[[watch.z]]", "watch[0].z: write [watch.z] in single brackets: there is only one"),
        ("[[watch]]", "http = 8787\n[[watch]]", "render.http: is not a known key; known are url, owner, project"),
    ],
)
def test_wrong_brackets_are_refused_with_a_hint(write: Write, old: str, new: str, expected: str) -> None:
    assert problem_of(write(changed(old, new))).startswith(expected)


def test_a_value_in_place_of_a_section_is_refused_with_a_hint(write: Write) -> None:
    assert problems_of(write("http = 8787\n" + SMALLEST)) == ("http: 8787 is not a table: write its keys below [http]",)


def test_a_watch_that_only_the_environment_sets_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMWATCH_WATCH__0__NAME", "a")
    assert (
        problem_of(write(SMALLEST[: SMALLEST.index("[[watch]]")]))
        == "watch: the environment sets keys of it, but the file has no [[watch]]"
    )


def test_optional_keys_of_the_example_have_their_defaults() -> None:
    """Editing only the required keys gives the defaults, except for the second stack, which check-config shows."""
    example = tomllib.loads((ROOT / "config.example.toml").read_text())
    example["watch"] = example["watch"][0]
    differing = []
    for name, _, model in sections(Settings):
        if not getattr(model, "in_example", True):
            assert name not in example
            continue
        table = reduce(lambda table, key: table[key], name.split("."), example)
        for key, field in plain_fields(model):
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            if (
                key in table
                and not field.is_required()
                and toml_value(table[key]) != toml_value("" if default is None else default)
            ):
                differing.append(f"{name}.{key}")
    assert [key for key in differing if key != "watch.stacks.mipmapped"] == []


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('rule = "grid"', "grid of the header; no offset"),
        ('rule = "header"\noffset = -2', "z_index of the header; offset -2"),
        (
            'rule = "grid"\noffset = 5\noffsets_by_media = { "0151" = 130000, "0152" = 0 }',
            "grid of the header; offset +130000 on tape 0151, +0 on tape 0152, +5 on other tapes",
        ),
        ('rule = "fixed"\nz = 3.5', "always 3.5; no offset"),
        ('rule = "name"\nname_pattern = "s(?P<z>.)"', "group z of s(?P<z>.) in the metafile's name; no offset"),
    ],
)
def test_the_whole_z_rule_is_described(write: Write, lines: str, expected: str) -> None:
    assert load_settings(write(changed('rule = "grid"', lines))).watch[0].z.description == expected


def test_all_problems_are_reported_at_once(write: Write) -> None:
    text = changed('"grid"', '"gird"', changed('owner = "em"', "")) + "[[watch]]\nname = 'b'\n"
    keys = [problem.split(": ")[0] for problem in problems_of(write(text))]
    assert keys == [
        "render.owner",
        "watch[0].z.rule",
        "watch[1].directory",
        "watch[1].z.rule",
        "watch[1].mipmaps.output_dir",
    ]


def test_an_empty_file_is_refused_with_the_required_keys(write: Write) -> None:
    keys = [problem.split(": ")[0] for problem in problems_of(write(""))]
    assert keys == ["render.url", "render.owner", "render.project", "watch"]


@pytest.mark.parametrize("watched", ["/data/temca2", "/data/temca2/deeper", "/data"])
def test_overlapping_watches_are_refused(write: Write, watched: str) -> None:
    second = changed("/data/temca3", watched, changed("/data/mipmaps", "/mips", SECOND))
    assert problem_of(write(changed("/data/mipmaps", "/mips") + second)) == (
        f"watch[1].directory: {watched} overlaps /data/temca2 of watch[0]; a metafile belongs to one watch"
    )


def test_owner_and_project_of_a_watch_default_to_those_of_render(write: Write) -> None:
    own_names = "[watch.stacks]\nowner = 'lab'\nproject = '{specimen_id}'\n"
    first, second = load_settings(write(SMALLEST + SECOND + own_names)).watch
    raw, in_place = "{specimen_id}_raw", "{specimen_id}_raw"
    assert first.stacks.full_names("em", "v1") == (("em", "v1", raw), ("em", "v1", in_place))
    assert second.stacks.full_names("em", "v1")[0] == ("lab", "{specimen_id}", raw)


def test_a_full_stack_name_that_is_too_long_without_its_fields_is_refused(write: Write) -> None:
    long = f"[watch.stacks]\nowner = '{'o' * 60}'\nproject = '{'p' * 40}_{{specimen_id}}'\n"
    assert problem_of(write(SMALLEST + SECOND + long)).startswith(
        f"watch[1].stacks.raw: {'o' * 60}/{'p' * 40}_x/x_raw owner, project and stack have 107 "
    )


def test_directories_with_a_common_name_prefix_do_not_overlap(write: Write) -> None:
    assert len(load_settings(write(SMALLEST + changed("/data/temca3", "/data/temca22", SECOND))).watch) == 2


def test_a_watch_name_used_twice_is_refused(write: Write) -> None:
    assert (
        problem_of(write(SMALLEST + changed('"temca3"', '"temca2"', SECOND)))
        == "watch[1].name: 'temca2' is already the name of watch[0]"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            changed("/data/mipmaps", "/data/temca2/mips"),
            "watch[0].mipmaps.output_dir: /data/temca2/mips is inside the watched",
        ),
        (
            changed("/data/mipmaps", "/data"),
            "watch[0].mipmaps.output_dir: /data contains the watched directory /data/temca2",
        ),
        (
            SMALLEST + "[journal]\npath = '/data/temca2/j'\n",
            "journal.path: /data/temca2/j is inside the watched directory",
        ),
    ],
)
def test_writing_in_a_watched_directory_is_refused(write: Write, text: str, expected: str) -> None:
    assert problem_of(write(text)).startswith(expected)


MAPPED = """
[[render.path_map]]
local = "/data"
render = "/storage"
[[render.path_map]]
local = "/data/mipmaps"
render = 'Z:\\mips'
"""


def test_a_path_map_applies_to_the_tile_specs_and_mipmaps_of_every_watch(write: Write) -> None:
    for watch in load_settings(write(SMALLEST + SECOND + MAPPED)).watch:
        assert watch.tilespec_options().path_map.to_url("/data/temca2/a.tif") == "file:///storage/temca2/a.tif"
        plan = watch.mipmap_plan()
        made = level_uris(Level0("t", Path("/data/temca2/a.tif"), None, 8, 8), plan)
        assert made[2] == ("file:///Z:/mips/2/data/temca2/a.tif.tif", None)
        assert not plan.is_derived


def test_with_a_path_builder_levels_have_the_paths_that_render_derives(write: Write) -> None:
    posix = changed("render = 'Z:\\mips'", "render = '/storage mips'", MAPPED)
    plan = (
        load_settings(write(changed("output_dir", "apply = 'path_builder'\noutput_dir") + posix)).watch[0].mipmap_plan()
    )
    assert plan.path_builder()["rootPath"] == "/storage mips/"
    assert plan.path(2, Path("/data/temca2/a.tif")) == Path("/data/mipmaps/2/storage/temca2/a.tif.tif")


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ("local = 'data'\nrender = '/s'", "render.path_map[0].local: 'data' is not an absolute path"),
        ("local = '/data'\nrender = 's'", "render.path_map: 's' is not an absolute path of render-ws"),
        ("local = '/data'", "render.path_map[0].render: is required"),
        (
            "local = '/a'\nrender = '/s'\n[[render.path_map]]\nlocal = '/a'\nrender = '/t'",
            "render.path_map: local = '/a' stands",
        ),
        (
            "local = '/x'\nrender = '/data'",
            "watch[0].directory: /data/temca2 maps to /data/temca2 of render-ws, which maps back to /x/",
        ),
        ("local = '/data'\nrender = '/s'\nmore = 1", "render.path_map[0].more: is not a known key"),
    ],
)
def test_an_invalid_path_map_is_refused(write: Write, entries: str, expected: str) -> None:
    assert problem_of(write(f"{SMALLEST}\n[[render.path_map]]\n{entries}\n")).startswith(expected)


def test_a_path_map_may_come_from_the_environment(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMWATCH_RENDER__PATH_MAP", '[{"local": "/data", "render": "/storage"}]')
    assert load_settings(write(SMALLEST)).render.paths.to_url("/data/a") == "file:///storage/a"


def test_the_environment_can_set_keys_of_one_entry_of_the_path_map(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMWATCH_RENDER__PATH_MAP__0__RENDER", "/other")
    assert load_settings(write(SMALLEST + MAPPED)).render.paths.to_url("/data/a") == "file:///other/a"


@pytest.mark.parametrize(
    ("mapped", "name", "expected"),
    [
        ("", "0__RENDER", "render.path_map: the environment sets keys of it, but the file has no [[render.path_map]]"),
        (
            MAPPED,
            "7__RENDER",
            "TEMWATCH_RENDER__PATH_MAP__7__...: there is no render.path_map[7]; [[render.path_map]] in",
        ),
        (
            MAPPED,
            "X__RENDER",
            "TEMWATCH_RENDER__PATH_MAP__X__...: expected a number of [[render.path_map]], from 0",
        ),
        (MAPPED, "0", "render.path_map[0]: '/other' is not a table"),
    ],
)
def test_a_variable_of_no_entry_of_the_path_map_is_refused(
    write: Write, monkeypatch: pytest.MonkeyPatch, mapped: str, name: str, expected: str
) -> None:
    monkeypatch.setenv(f"TEMWATCH_RENDER__PATH_MAP__{name}", "/other")
    assert problem_of(write(SMALLEST + mapped)).startswith(expected)


def test_a_path_builder_is_refused_with_a_drive_letter(write: Write) -> None:
    assert problem_of(write(changed("output_dir", "apply = 'path_builder'\noutput_dir") + MAPPED)).startswith(
        "watch[0].mipmaps.apply: 'path_builder' cannot be used with /data/mipmaps: its URL file:///Z:/mips"
    )


def test_a_path_builder_is_refused_if_a_url_escapes_the_directory(write: Write) -> None:
    text = changed("/data/temca2", "/data/tape 151", changed("output_dir", 'apply = "path_builder"\noutput_dir'))
    assert problem_of(write(text)).startswith(
        "watch[0].mipmaps.apply: 'path_builder' cannot be used with /data/tape 151"
    )


def test_reference_sets_cannot_be_both_ingested_and_ignored(write: Write) -> None:
    ingest = 'reference_sets = "ingest"\n'
    assert (
        problem_of(write(changed("[watch.z]", ingest + "[watch.z]")))
        == "watch[0].reference_sets: 'ingest' contradicts '*_reference_*' in ignore, which matches them"
    )
    assert load_settings(write(changed("[watch.z]", ingest + "ignore = []\n[watch.z]"))).watch[0].ignore == ()


# --- files and variables


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[render]\nurl = "x"\nowner = \n', ":3:9: owner has no value: write one after the '='"),
        ('[render]\nurl = "x\n', ":2:"),
        ("[render]\n[render]\n", ":2:8: [render] is set twice: move its keys below one heading"),
        ('[render]\nowner = "a"\nowner = "b"\n', ":3:12: the key owner is set twice in this table: delete one"),
        ("[[watch]]\nname = temca2\n", ':2:8: temca2 is not a value: write a text in quotes, as in name = "temca2"'),
        ("[http]\nhost = 127.0.0.1\n", ":2:13: 127.0.0.1 is not a value: write a text in quotes, as in host ="),
        ('[http]\nhost = "\\data"\n', ":2:11: a backslash in double quotes starts an escape"),
        ("[[watch]]\ndirectory = /data/a # here\n", ":2:13: /data/a is not a value: write a text in quotes, as in"),
        ("[[watch]]\nstrict = True\n", ":2:10: True is not a value: write strict = true"),
        ("[watch]\nname = 'a'\n[[watch]]\n", ":3:8: [watch] and [[watch]] exclude each other"),
        ("[[watch]]\n[watch.z]\n[watch.z]\n", ":3:9: [watch.z] is set twice for one watch: start each watch with"),
        ('[http]\nhost = "a\n', ":2:10: a quote is not closed"),
        ("a = [1,\n2", ":2"),
    ],
)
def test_malformed_toml_is_reported_with_file_and_line(write: Write, text: str, expected: str) -> None:
    path = write(text)
    assert problem_of(path).startswith(f"{path}{expected}")


def test_text_that_is_not_utf8_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"[render]\nowner = '\xe9m'\n")
    assert problems_of(path) == (f"{path}:2: is not UTF-8",)


def test_a_missing_file_is_reported_with_a_hint(tmp_path: Path) -> None:
    assert problem_of(tmp_path / "none.toml").startswith(
        f"{tmp_path / 'none.toml'}: no such file (copy config.example.toml there"
    )
    assert problems_of(tmp_path) == (f"{tmp_path}: cannot be read: Is a directory",)


def test_a_variable_of_an_unknown_section_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMWATCH_RENDR__URL", "http://x")
    assert problems_of(write(SMALLEST)) == ("TEMWATCH_RENDR__URL: 'rendr' is not a known key; did you mean 'render'?",)


def test_a_wrong_value_from_the_environment_names_the_variable(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMWATCH_HTTP__PORT", "many")
    assert problems_of(write(SMALLEST)) == ("http.port: 'many' is not a whole number (set by TEMWATCH_HTTP__PORT)",)


def test_a_list_that_is_not_json_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMWATCH_WATCH__0__IGNORE", "[")
    problem = problem_of(write(SMALLEST))
    assert "ignore" in problem
    assert "JSON" in problem


def test_the_environment_cannot_add_a_watch(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMWATCH_WATCH__1__STRICT", "true")
    assert (
        problem_of(write(SMALLEST))
        == "TEMWATCH_WATCH__1__...: there is no watch[1]; [[watch]] in the file: 1, numbered from 0"
    )


def test_a_z_table_is_checked_when_settings_are_loaded(write: Write, tmp_path: Path) -> None:
    table = tmp_path / "z.csv"
    path = write(changed('rule = "grid"', f'rule = "table"\ntable = "{table}"'))
    assert problem_of(path).startswith(f"watch[0].z.table: {table} cannot be read")
    table.write_text("grid,z\n001050,7.5\n")
    assert load_settings(path).watch[0].to_z_rule().table is not None


@pytest.mark.parametrize(
    ("mode", "content"), [(0o644, "a" * 32), (0o660, "a" * 32), (0o600, "short"), (0o600, "a b" * 9)]
)
def test_a_token_that_is_short_invalid_or_open_to_others_is_refused(
    write: Write, tmp_path: Path, mode: int, content: str
) -> None:
    token = tmp_path / "token"
    token.write_text(content)
    token.chmod(mode)
    assert problem_of(write(SMALLEST + f'[http]\ntoken_file = "{token}"\n')).startswith(f"http.token_file: {token} ")


def test_a_token_is_read_from_a_private_file_and_never_shown(write: Write, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    token.chmod(0o640)
    settings = load_settings(write(SMALLEST + f'[http]\ntoken_file = "{token}"\n'))
    assert read_token(settings.http) == "0123456789abcdef"
    assert "0123456789abcdef" not in repr(settings)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("render", False)],
)
def test_loopback_addresses_are_recognized(write: Write, host: str, loopback: bool) -> None:
    assert load_settings(write(SMALLEST + f'[http]\nhost = "{host}"\n')).http.loopback is loopback


def test_a_configuration_error_can_be_pickled() -> None:
    refusal = pickle.loads(pickle.dumps(ConfigError(("a: b", "c: d"))))
    assert refusal.problems == ("a: b", "c: d")
    assert str(refusal) == "a: b\nc: d"


def test_the_mipmap_plan_has_the_configured_values(write: Write) -> None:
    keys = "method = 'PIL'\nfilter = 'LANCZOS'\nformat = 'png'\ncompression = 9\nforce = false\noutput_dir"
    plan = load_settings(write(changed("output_dir", keys))).watch[0].mipmap_plan()
    assert (plan.reduction, plan.encoding, plan.force) == (Reduction("PIL", "LANCZOS"), Encoding("png", None, 9), False)


def test_masks_of_jpg_mipmaps_are_png_and_exclude_a_path_builder(write: Write) -> None:
    keys = "format = 'jpg'\nquality = 80\noutput_dir"
    masked = changed("output_dir", keys) + '[watch.tilespecs]\nmask = "/data/mask.png"\n'
    plan = load_settings(write(masked)).watch[0].mipmap_plan()
    assert (plan.extension, plan.mask_encoding.extension) == ("jpg", "png")
    assert problem_of(write(changed("quality", "apply = 'path_builder'\nquality", masked))).startswith(
        "watch[0].mipmaps.apply: 'path_builder' has one extension"
    )


MOUNTS = (Mount("/", "ext4"), Mount("/share", "nfs4"))


def test_a_journal_on_a_network_file_system_is_refused_without_allow_network(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.config.files.read_mounts", lambda: MOUNTS)
    path = '[journal]\npath = "/share/temwatch/journal.sqlite"\n'
    problem = problem_of(write(SMALLEST + path))
    assert problem.startswith("journal.path: /share/temwatch/journal.sqlite is on nfs4, mounted at /share: ")
    assert "journal.allow_network = true" in problem
    load_settings(write(SMALLEST + path + "allow_network = true\n"))
    load_settings(write(SMALLEST))


def test_the_file_system_of_a_journal_below_an_automount_is_the_mounted_one(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = iter(
        [Mount("/share", "autofs"), Mount("/share", "ext4"), Mount("/share", "autofs"), Mount("/share", "autofs")]
    )
    monkeypatch.setattr("daemon.config.files.read_mounts", lambda: (Mount("/", "ext4"), next(mounts)))
    config = write(SMALLEST + '[journal]\npath = "/share/journal.sqlite"\n')
    load_settings(config)
    assert "is on autofs" in problems_of(config)[0]
