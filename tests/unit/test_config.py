"""The configuration: what is accepted, what is refused and in which words, and how it is shown."""

import re
import threading
import tomllib
from pathlib import Path

import pytest

from dsfs.admin import preflight as preflight_module
from dsfs.admin.config_text import to_json, to_toml
from dsfs.admin.preflight import preflight
from dsfs.config import Config
from dsfs.config.document import from_document, load
from dsfs.model.errors import ConfigError, NotFoundError
from dsfs.model.s3url import S3Url
from dsfs.storage.mounts import Mount

EXAMPLE = """
mountpoint = "/datasets"
state_dir  = "/var/lib/dsfs"
[origin]
url          = "s3://lake/datasets"
endpoint_url = "http://127.0.0.1:9000"
region = "us-east-1"
[backing]
path  = "/mnt/ontap/dsfs"
limit = "2TiB"
floor = "5%"
[memory]
limit = "512MiB"
[[dataset]]
name = "speech"
url  = "s3://other/speech"
"""
LEAST = """
mountpoint = "/datasets"
[origin]
url = "s3://lake"
[backing]
path = "/mnt/dsfs"
limit = "1TiB"
"""


def config_of(text: str) -> Config:
    return from_document(tomllib.loads(text), Path("dsfs.toml"))


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config_of(text)
    return str(caught.value).splitlines()


def test_example_is_read_with_sizes_in_bytes_and_durations_in_seconds() -> None:
    config = config_of(EXAMPLE)
    assert config.mountpoint == Path("/datasets")
    assert config.control_socket == Path("/var/lib/dsfs/control.sock")
    assert config.origin.url == S3Url("lake", "datasets")
    assert config.origin.timeout_s == 30
    assert config.origin.connections == 64
    assert config.backing.limit_bytes == 2 * 2**40
    assert config.backing.floor.of(1000) == 50
    assert config.memory.limit_bytes == 512 * 2**20


def test_what_is_left_out_has_its_default() -> None:
    config = config_of(LEAST)
    assert config.state_dir == Path("/var/lib/dsfs")
    assert config.origin.endpoint_url is None
    assert config.origin.list_timeout_s == 600
    assert (config.mount.owner.id, config.mount.mode, config.mount.allow_other) == (0, 0o444, True)
    assert (config.log.level, config.log.format, dict(config.log.levels)) == ("info", "text", {})


def test_listed_dataset_has_from_origin_and_mount_what_it_leaves_out() -> None:
    text = EXAMPLE + 'owner = 1000\nmode = "0440"\n'
    dataset = config_of(text).dataset("speech")
    assert dataset.url == S3Url("other", "speech")
    assert dataset.endpoint_url == "http://127.0.0.1:9000"
    assert (dataset.owner.id, dataset.group.id) == (1000, 0)
    assert (dataset.mode, dataset.dir_mode) == (0o440, 0o550)


def test_dataset_is_kept_like_all_others_but_for_what_it_says_itself() -> None:
    text = EXAMPLE.replace("[memory]", '[retention]\nstale_after = "2d"\nmax_share = "40%"\n[memory]')
    config = config_of(text + 'keep_newest = 3\nmax_share = "1TiB"\n')
    speech, vision = config.dataset("speech"), config.dataset("vision")
    assert (speech.stale_after_s, speech.keep_newest, str(speech.max_share)) == (2 * 86_400, 3, "1TiB")
    assert (vision.stale_after_s, vision.keep_newest, str(vision.max_share)) == (2 * 86_400, 1, "40%")


def test_dataset_found_at_the_origin_lies_below_its_url() -> None:
    dataset = config_of(EXAMPLE).dataset("vision")
    assert str(dataset.url) == "s3://lake/datasets/vision"
    assert dataset.url.key_prefix == "datasets/vision/"
    assert dataset.dir_mode == 0o555


def test_dataset_may_go_to_aws_although_the_origin_has_an_endpoint() -> None:
    assert config_of(EXAMPLE + 'endpoint_url = ""\n').dataset("speech").endpoint_url is None


def test_datasets_alone_need_no_origin_url() -> None:
    text = LEAST.replace('url = "s3://lake"', "") + '[[dataset]]\nname = "a"\nurl = "s3://b"\n'
    config = config_of(text)
    assert config.datasets[0].url == S3Url("b")
    with pytest.raises(NotFoundError, match="no dataset is named vision"):
        config.dataset("vision")


def test_without_origin_and_dataset_there_is_nothing_to_mount() -> None:
    assert problems_of(LEAST.replace('url = "s3://lake"', "")) == [
        "dsfs.toml: [origin] url: missing, and no [[dataset]] either: one of them is needed"
    ]


def test_dataset_without_url_needs_the_origin_url() -> None:
    text = LEAST.replace('url = "s3://lake"', "") + '[[dataset]]\nname = "a"\n'
    assert problems_of(text) == [
        'dsfs.toml: [[dataset]] "a" url: missing (there is no [origin] url it could lie below)'
    ]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("endpoint_url", "endpont_url", "[origin] endpont_url: unknown key (did you mean endpoint_url?)"),
        ("mountpoint ", "mount_point ", "mount_point: unknown key (did you mean mountpoint?)"),
        ("[memory]", "[memry]", "memry: unknown key (did you mean memory?)"),
        ('floor = "5%"', 'mode = "0444"', "[backing] mode: unknown key (it belongs in [mount])"),
        ('floor = "5%"', "zzz = 1", "[backing] zzz: unknown key"),
        (
            '"2TiB"',
            '"2TX"',
            '[backing] limit: "2TX": expected a size with its unit, such as "512MiB" or "2TiB"',
        ),
        ('"2TiB"', "2", '[backing] limit: 2: expected a size with its unit, such as "512MiB" or "2TiB"'),
        ('"512MiB"', '"1MiB"', '[memory] limit: "1MiB": expected at least 64MiB'),
        (
            '"us-east-1"',
            '"30 s"',
            '[origin] region: "30 s": expected the name of a region, such as "eu-central-1"',
        ),
        ("region =", "connections = 257 #", "[origin] connections: 257: expected a whole number, 1 to 256"),
        ("region =", "connections = true #", "[origin] connections: true: expected a whole number, 1 to 256"),
        ("region =", 'unsigned = "yes" #', '[origin] unsigned: "yes": expected true or false'),
        ("region =", 'timeout = "2h" #', '[origin] timeout: "2h": expected 1s to 1h'),
        ('"/datasets"', '"datasets"', 'mountpoint: "datasets": expected an absolute path'),
        ('"s3://lake/datasets"', '"http://lake"', "expected s3://<bucket> or s3://<bucket>/<prefix>"),
        ('"s3://lake/datasets"', '"s3://lake//datasets"', "(without empty components: //)"),
        ('"http://127.0.0.1:9000"', '"http://key:secret@host"', "without credentials"),
        ('"http://127.0.0.1:9000"', '"http://host:99999"', '[origin] endpoint_url: "http://host:99999": expected http://'),
        ('"http://127.0.0.1:9000"', '"http://host:0"', "[origin] endpoint_url"),
        ('"http://127.0.0.1:9000"', '"http://:9000"', "[origin] endpoint_url"),
        ('"http://127.0.0.1:9000"', '"http://[::1"', "[origin] endpoint_url"),
        ('"s3://lake/datasets"', '"s3://lake/../x?y#"', '[origin] url: "s3://lake/../x?y#": expected s3://'),
        ('"s3://lake/datasets"', '"s3://lake/a/./b"', "(without components . and ..)"),
        ('"2TiB"', '"0"', '[backing] limit: "0": expected at least 1MiB'),
        ('"speech"', '"a/b"', "expected the name of a directory: 1 to 255 bytes, no slash, not . or .."),
        ('"speech"', '".."', "expected the name of a directory"),
        ('name = "speech"', "", "[[dataset]] number 1 name: missing (expected the name of a directory)"),
        ("[[dataset]]", "[dataset]", "[dataset]: there may be several: write [[dataset]]"),
        ('mountpoint = "/datasets"', "", "mountpoint: missing (expected an absolute path)"),
        ("[memory]\nlimit", "memory", "[memory]: expected a table"),
    ],
)
def test_problem_is_named_with_file_key_value_and_what_is_expected(old: str, new: str, problem: str) -> None:
    # A bare `memory = ...` has to stand before the first table.
    text = f"{new} = 1\n{EXAMPLE.replace(old, '#')}" if new == "memory" else EXAMPLE.replace(old, new, 1)
    found = problems_of(text)
    assert any(problem in line for line in found), found
    assert all(line.startswith("dsfs.toml: ") for line in found)


@pytest.mark.parametrize(
    ("addition", "problem"),
    [
        ('[mount]\nmode = "0644"', "expected an octal string without write bits"),
        ('[mount]\nowner = "no such user"', "expected the name of a user of this machine, or its number"),
        ('[log]\nlevel = "loud"', 'expected "debug" or "info" or "warning" or "error"'),
        ('[log]\nlevels = { "config" = "loud" }', "expected a level"),
        ('[log]\nlevels = { "confg" = "debug" }', "no module is named confg (did you mean config?)"),
        ('[[dataset]]\nname = "speech"', '[[dataset]] "speech": more than one has this name'),
    ],
)
def test_problem_in_a_further_table_is_named(addition: str, problem: str) -> None:
    (found,) = problems_of(f"{EXAMPLE}\n{addition}\n")
    assert problem in found


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ('high_watermark = "80%"', "low_watermark: 80% is not below high_watermark, 80%"),
        ('low_watermark = "1900GiB"', "low_watermark: 1900GiB is not below high_watermark, 90%"),
        ('high_watermark = "3TiB"', "high_watermark: 3TiB is more than [backing] limit"),
        ('high_watermark = "101%"', "expected a percentage such as"),
        ('stale_after = "5m"', 'stale_after: "5m": expected 1h to 3650d'),
        ("keep_newest = -1", "keep_newest: -1: expected a whole number, 0 to 1000"),
    ],
)
def test_retention_that_contradicts_itself_is_refused(keys: str, problem: str) -> None:
    (found,) = problems_of(EXAMPLE.replace("[memory]", f"[retention]\n{keys}\n[memory]"))
    assert problem in found


def test_all_problems_are_named_at_once() -> None:
    assert len(problems_of(EXAMPLE.replace("2TiB", "2").replace("5%", "5").replace("region", "regon"))) == 3


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"/var/lib/dsfs"', '"/datasets/state"', "state_dir: /datasets/state lies below the mountpoint"),
        ('"/mnt/ontap/dsfs"', '"/mnt/../datasets"', "[backing] path: /datasets lies below the mountpoint"),
        ('"/mnt/ontap/dsfs"', '"/var/lib/dsfs/"', "[backing] path: /var/lib/dsfs is the state_dir"),
        ('"/datasets"', '"//"', "mountpoint: cannot be /"),
    ],
)
def test_directories_that_contain_each_other_are_refused(old: str, new: str, problem: str) -> None:
    (found,) = problems_of(EXAMPLE.replace(old, new))
    assert problem in found


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\xff", "not UTF-8 text (byte 0)"),
        (b"a = 1\nb = = 2\n", "not valid TOML: Invalid value (at line 2, column 5)"),
    ],
)
def test_file_that_is_no_toml_is_named_with_the_place(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    path = tmp_path / "dsfs.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: {problem}"


@pytest.mark.parametrize("text", [EXAMPLE, LEAST, EXAMPLE + '[log]\nlevels = { "config" = "debug" }\n'])
def test_shown_configuration_reads_back_as_the_same(text: str) -> None:
    config = config_of(text)
    assert config_of(to_toml(config)) == config


def test_json_has_every_key_under_its_name_with_the_unit() -> None:
    document = to_json(config_of(EXAMPLE))
    assert document["origin"]["timeout_s"] == 30
    assert document["backing"]["limit_bytes"] == 2 * 2**40
    assert document["datasets"][0]["mode"] == "0444"


ROOT = Mount(Path("/"), "ext4", "/dev/vda1", "254:0")
NFS = Mount(Path("/mnt/ontap"), "nfs4", "filer:/vol", "0:36")


def test_usual_configuration_gives_no_warning_about_file_systems() -> None:
    assert not [
        line for line in preflight(config_of(EXAMPLE), [ROOT, NFS]) if "path" in line or "state" in line
    ]


def test_state_on_a_network_file_system_is_refused() -> None:
    var = Mount(Path("/var"), "nfs4", "filer:/var", "0:37")
    with pytest.raises(ConfigError, match=r"dsfs\.toml: state_dir: /var/lib/dsfs is on nfs4 \(/var\)"):
        preflight(config_of(EXAMPLE), [ROOT, var, NFS])


def test_unlikely_places_are_warned_of() -> None:
    warnings = preflight(config_of(EXAMPLE), [ROOT, Mount(Path("/var"), "tmpfs", "tmpfs", "0:38")])
    assert any("state_dir: /var/lib/dsfs is on tmpfs" in line for line in warnings)
    assert any("/mnt/ontap/dsfs is on ext4 (/), not on a network file system" in line for line in warnings)


def test_backing_directory_that_is_waited_for_longer_than_the_origin_is_warned_of() -> None:
    config = config_of(EXAMPLE.replace("[memory]", 'timeout = "30s"\n[memory]'))
    assert any(line.startswith("[backing] timeout: not shorter") for line in preflight(config, [ROOT, NFS]))
def test_limits_beyond_what_there_is_are_warned_of(tmp_path: Path) -> None:
    text = EXAMPLE.replace("/mnt/ontap/dsfs", str(tmp_path / "backing"))
    assert not [line for line in preflight(config_of(text.replace("2TiB", "1MiB"))) if " limit: " in line]
    absurd = config_of(text.replace("2TiB", "999999999999TiB").replace("512MiB", "1000TiB"))
    memory, backing = (line for line in preflight(absurd) if " limit: " in line)
    assert memory.startswith("[memory] limit: 1000 TiB is more than the ")
    assert memory.endswith(" of this machine")
    assert re.match(r"\[backing\] limit: .* PiB is more than the .* of the file system there: only the floor", backing)


@pytest.mark.parametrize("key", ["mountpoint", "state_dir", "[backing] path"])
@pytest.mark.parametrize("below", ["", "/on/the/way"])
def test_what_is_no_directory_is_refused_by_its_key(tmp_path: Path, key: str, below: str) -> None:
    places = {"mountpoint": "/datasets", "state_dir": "/var/lib/dsfs", "[backing] path": "/mnt/ontap/dsfs"}
    text = EXAMPLE
    for name, place in places.items():
        text = text.replace(f'"{place}"', f'"{tmp_path}/{name.strip("[]")}{below if name == key else ""}"')
    preflight(config_of(text))
    (tmp_path / key.strip("[]")).touch()
    with pytest.raises(ConfigError) as caught:
        preflight(config_of(text))
    assert str(caught.value) == f"dsfs.toml: {key}: {tmp_path}/{key.strip('[]')}{below} is not a directory"


def test_silent_backing_directory_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    silence = threading.Event()
    monkeypatch.setattr(preflight_module, "_ANSWERS_S", 0.05)
    monkeypatch.setattr(preflight_module, "_file_system_bytes", lambda path: silence.wait())
    warnings = preflight(config_of(EXAMPLE), [ROOT, NFS])
    silence.set()
    assert "[backing] path: /mnt/ontap/dsfs has not answered for 0.05 s" in warnings


def test_time_out_that_leaves_no_second_attempt_is_warned_of() -> None:
    config = config_of(EXAMPLE.replace("region =", 'timeout = "10s" #'))
    assert (
        "[origin] stall_timeout: not shorter than timeout: there is no time for another attempt"
        in preflight(config, [ROOT, NFS])
    )
