"""The log: lines, levels per module, and repeats."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from dsfs.logs import JsonFormatter, LogWriter, TextFormatter, configure


class Clock:
    """A clock that goes on when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def writer(stream: io.StringIO, clock: Clock) -> LogWriter:
    writer = LogWriter(stream, window_s=60, burst=3, table_size=4, clock=clock)
    writer.setFormatter(logging.Formatter("%(message)s"))
    return writer


@pytest.fixture
def restored() -> Iterator[None]:
    """Undo what configure() does to the process."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    for added in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(added)
    for name in [name for name in root.manager.loggerDict if name.split(".")[0] == "dsfs"]:
        logging.getLogger(name).setLevel(logging.NOTSET)


def record(
    message: str, *args: object, level: int = logging.WARNING, name: str = "dsfs.cache.fetch"
) -> logging.LogRecord:
    return logging.LogRecord(name, level, "", 0, message, args, None)


def test_text_line_has_time_level_and_module() -> None:
    line = TextFormatter().format(record("block %d is bad", 7))
    assert line.endswith("Z WARNING cache.fetch: block 7 is bad")


def test_name_in_a_message_cannot_forge_a_line() -> None:
    line = TextFormatter().format(record("left out %s", "x\n2026-01-01T00:00:00.000Z ERROR forged"))
    assert "\n" not in line


def test_traceback_follows_on_indented_lines() -> None:
    try:
        raise ValueError("why\nnot")
    except ValueError as exc:
        failed = record("unexpected")
        failed.exc_info = (ValueError, exc, exc.__traceback__)
    head, *trace = TextFormatter().format(failed).splitlines()
    assert head.endswith("unexpected")
    assert trace
    assert all(line.startswith("    ") for line in trace)
    assert "ValueError: why" in json.loads(JsonFormatter().format(failed))["traceback"]


def test_json_line_is_one_object() -> None:
    document = json.loads(JsonFormatter().format(record("a\nb %s", "caf\udce9")))
    assert document["level"] == "warning"
    assert document["module"] == "cache.fetch"
    assert document["message"] == "a\nb caf\udce9"


@pytest.mark.usefixtures("restored")
def test_level_of_a_module_is_its_own(stream: io.StringIO) -> None:
    configure("warning", levels={"cache.fetch": "debug"}, stream=stream)
    logging.getLogger("dsfs.cache.fetch").debug("shown")
    logging.getLogger("dsfs.cache.fill").info("hidden")
    logging.getLogger("botocore").info("hidden")
    logging.getLogger("botocore").warning("shown too")
    assert [line.split(": ")[1] for line in stream.getvalue().splitlines()] == ["shown", "shown too"]


@pytest.mark.expects_log("shown")
@pytest.mark.usefixtures("restored")
def test_second_configuration_replaces_the_first(stream: io.StringIO) -> None:
    configure("debug", levels={"cache.fetch": "debug"}, stream=io.StringIO())
    configure("warning", "json", stream=stream)
    logging.getLogger("dsfs.cache.fetch").info("hidden")
    logging.getLogger("dsfs.cache.fetch").warning("shown")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["shown"]


def test_repeats_within_a_window_are_counted_and_summarised_once(
    writer: LogWriter, stream: io.StringIO, clock: Clock
) -> None:
    for block in range(10):
        writer.handle(record("block %d is bad", block))
    clock.now_s = 61
    writer.handle(record("something else"))
    assert stream.getvalue().splitlines() == [
        "block 0 is bad",
        "block 1 is bad",
        "block 2 is bad",
        "7 more like this within 60 s: block %d is bad",
        "something else",
    ]


def test_after_a_window_the_message_is_written_again(
    writer: LogWriter, stream: io.StringIO, clock: Clock
) -> None:
    writer.handle(record("slow"))
    clock.now_s = 61
    for _ in range(3):
        writer.handle(record("slow"))
    assert stream.getvalue().splitlines() == ["slow"] * 4


def test_same_words_of_another_module_or_level_are_another_message(
    writer: LogWriter, stream: io.StringIO
) -> None:
    for _ in range(3):
        writer.handle(record("slow"))
    writer.handle(record("slow", name="dsfs.cache.fill"))
    writer.handle(record("slow", level=logging.ERROR))
    assert len(stream.getvalue().splitlines()) == 5


def test_debug_messages_are_never_held_back(writer: LogWriter, stream: io.StringIO) -> None:
    for _ in range(20):
        writer.handle(record("detail", level=logging.DEBUG))
    assert len(stream.getvalue().splitlines()) == 20


def test_full_table_forgets_the_oldest_message_but_not_its_count(
    writer: LogWriter, stream: io.StringIO
) -> None:
    for _ in range(5):
        writer.handle(record("first"))
    for name in "abcd":
        writer.handle(record(name))
    assert "2 more like this within 60 s: first" in stream.getvalue()


def test_what_was_counted_is_written_at_the_end(writer: LogWriter, stream: io.StringIO) -> None:
    for _ in range(4):
        writer.handle(record("slow"))
    writer.write_summaries()
    writer.write_summaries()
    assert stream.getvalue().splitlines() == ["slow"] * 3 + ["1 more like this within 60 s: slow"]
