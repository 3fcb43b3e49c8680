"""Settings of object stores: which are refused, the URLs of levels, and credentials."""

import importlib.util
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from daemon.config.mipmap_settings import MipmapSettings
from handlers.errors import SettingsFault, StoreFault
from handlers.mipmaps.plan import MipmapPlan
from handlers.objects import credentials
from handlers.place import StoreAccess, parse_object
from handlers.uris import mipmap_path

ON_SITE = {
    "output_dir": "s3://em/mips",
    "url": "https://store/em/mips",
    "store": {"endpoint": "https://store", "region": "here", "profile": "em", "ca_file": "/etc/ca.pem"},
}


@pytest.fixture(autouse=True)
def obstore_is_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


def test_a_place_has_the_configured_access():
    place = MipmapSettings(**ON_SITE).output_dir
    assert str(place) == "s3://em/mips"
    access = place.bucket.access
    assert (access.endpoint, access.region, access.profile) == ("https://store", "here", "em")
    assert access.ca_file == Path("/etc/ca.pem")


def test_without_the_extra_an_address_is_refused_with_the_command_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValidationError, match="needs the extra object-store: pip install"):
        MipmapSettings(**ON_SITE)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"url": ""}, "url.*is required with an endpoint: render-ws reads s3:// of AWS alone"),
        ({"output_dir": "gs://em", "url": "", "store": {}}, "url.*is required: render-ws cannot read gs://"),
        ({"output_dir": "az://em", "store": {"region": "x"}}, "store.region.*has no effect where output_dir is az://"),
        ({"output_dir": "/data/mips", "url": ""}, "store.ca_file.*has no effect where output_dir is a directory"),
        ({"apply": "path_builder"}, "apply.*'path_builder' cannot be used with url"),
        ({"min_free_bytes": 1}, "min_free_bytes.*has no effect where output_dir is s3://em"),
        ({"file_mode": "0664"}, "file_mode.*has no effect"),
        ({"output_dir": "s3://"}, "expected an address like s3://bucket/prefix"),
        ({"output_dir": "s3://em/a/../b"}, "has the name '..' in its key"),
        ({"output_dir": "s3://em/a//b"}, "has an empty name in its key"),
        ({"output_dir": "mips"}, "is not an absolute path"),
        ({"url": "ftp://store"}, "is not an address like https://store.example.org/bucket"),
        ({"url": "https://me:secret@store/em"}, "contains a login"),
        ({"url": "https://store/em?x=1"}, "has a query"),
        ({"url": "https://store/a b"}, "need percent-encoding"),
        ({"store": {"endpoint": "store:9000"}}, "is not an address like https://store.example.org:9000"),
    ],
)
def test_invalid_settings_and_settings_without_an_effect_are_refused(change, problem):
    with pytest.raises(ValidationError, match=problem):
        MipmapSettings(**{**ON_SITE, **change})


def test_aws_needs_no_url_and_a_directory_may_have_one():
    assert MipmapSettings(output_dir="s3://em/mips").url == ""
    plan = MipmapPlan(Path("/data/mips"), url="https://files/mips")
    assert plan.url_of(Path("/data/mips/1/a b.tif")) == "https://files/mips/1/a%20b.tif"


@pytest.mark.parametrize("url", ["", "https://store/em/mips"])
def test_a_url_is_converted_back_to_its_place(url):
    plan = MipmapPlan(parse_object("s3://em/mips"), url=url)
    place = plan.output_dir / "1/d/a+b 100%.tif"
    assert plan.place_of_url(plan.url_of(place)) == place
    assert plan.place_of_url("https://other/em/mips/1/a.tif") is None
    assert plan.place_of_url((url or "s3://em/mips") + "/../secret") is None


@pytest.mark.parametrize("name", ["a\udce4.tif", "a\n.tif", "a" * 1100])
def test_a_name_that_no_store_accepts_is_refused(name):
    with pytest.raises(SettingsFault, match="object stores do not accept"):
        mipmap_path(parse_object("s3://em"), 1, Path("/d", name), "tif")


# --- credentials


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    return tmp_path / ".aws" / "credentials"


def write(path, profile="default", key="k", **others):
    lines = {"aws_access_key_id": key, "aws_secret_access_key": "s", **others}
    path.touch(0o600)
    path.write_text(f"[{profile}]\n" + "".join(f"{name} = {value}\n" for name, value in lines.items()))


def test_keys_are_read_from_the_usual_file_unless_the_environment_has_some(home, monkeypatch):
    assert credentials.from_file(StoreAccess()) is None
    write(home)
    assert credentials.from_file(StoreAccess())()["access_key_id"] == "k"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "e")
    assert credentials.from_file(StoreAccess()) is None
    assert credentials.from_file(StoreAccess(profile="default"))()["access_key_id"] == "k"


def test_a_file_of_other_profiles_does_not_hide_the_role_of_the_machine(home, monkeypatch):
    write(home, "other")
    assert credentials.from_file(StoreAccess()) is None
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert credentials.from_file(StoreAccess())()["access_key_id"] == "k"


def test_a_user_without_a_home_directory_uses_the_machines_role(monkeypatch):
    def getpwuid(number):
        raise KeyError(number)

    for name in ("HOME", "AWS_SHARED_CREDENTIALS_FILE", "AWS_PROFILE", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", getpwuid)
    assert credentials.from_file(StoreAccess()) is None


def test_keys_are_read_again_and_expire_soon(home, tmp_path):
    own = tmp_path / "keys"
    write(own, "em", aws_session_token="t")
    read = credentials.from_file(StoreAccess(profile="em", credentials_file=own))
    assert read()["token"] == "t"
    write(own, "em", "new")
    assert (read()["access_key_id"], read()["token"]) == ("new", None)
    # obstore asks for other keys five minutes before they expire.
    asked_after = read()["expires_at"] - timedelta(minutes=5) - datetime.now(UTC)
    assert timedelta(0) < asked_after <= timedelta(seconds=credentials.KEPT_S)


def test_the_environment_may_name_the_file_of_the_keys(home, monkeypatch, tmp_path):
    write(home, key="usual")
    write(tmp_path / "keys", key="named")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    assert credentials.from_file(StoreAccess())()["access_key_id"] == "named"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[other]\naws_secret_access_key = s4711\n", "has no profile"),
        ("[em]\naws_access_key_id = k4711\n", "lacks aws_secret_access_key"),
        ("aws_secret_access_key = s4711\n", "not a valid INI file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_without_its_secrets(home, tmp_path, text, problem):
    own = tmp_path / "keys"
    own.touch(0o600)
    own.write_text(text)
    with pytest.raises(StoreFault, match=problem) as fault:
        credentials.from_file(StoreAccess(profile="em", credentials_file=own))()
    assert str(own) in str(fault.value)
    assert "4711" not in str(fault.value)


@pytest.mark.parametrize("mode", [0o644, 0o660])
def test_a_configured_file_that_other_users_can_read_or_change_is_refused(home, tmp_path, mode):
    for path in (own := tmp_path / "keys", home):
        write(path)
        path.chmod(mode)
    with pytest.raises(StoreFault, match=r"keys is open to other users \(chmod 0640"):
        credentials.from_file(StoreAccess(credentials_file=own))()
    assert credentials.from_file(StoreAccess())()["access_key_id"] == "k"  # as the programs of AWS read it


def test_a_missing_credentials_file_is_a_fault(tmp_path):
    with pytest.raises(StoreFault, match="cannot be read"):
        credentials.from_file(StoreAccess(credentials_file=tmp_path / "none"))()
