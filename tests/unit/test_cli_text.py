"""What the command line reads and prints: settings, keys, options, errors, text from strangers."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
import typer

from coordinator.broker.connection import BrokerRefused
from coordinator.broker.topology import TopologyMismatch
from coordinator.cli import dev_files
from coordinator.cli.commands import job, log, service
from coordinator.cli.errors import CommandError, Exit, explain, report
from coordinator.cli.main import app, main
from coordinator.cli.options import json_object
from coordinator.client.errors import refusal
from coordinator.domain.errors import Code
from coordinator.miner.executors.engine import EngineSettings
from coordinator.miner.settings import MinerSettings
from coordinator.runtime import terminal
from coordinator.runtime.modes.embedded import DATABASE_FILE
from coordinator.runtime.process.logs import configure_logs
from coordinator.runtime.settings import Settings
from coordinator.services.catalog import load_catalog
from coordinator.telemetry import export
from tests.harness.cases import every

ENV_EXAMPLE = Path(__file__).parents[2] / ".env.example"


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands(typer.main.get_command(app)))


@every("name", COMMANDS)
def test_every_command_speaks_json_and_explains_itself(name: str) -> None:
    """Every command has --json, a help text, and one for each of its options."""
    command = COMMANDS[name]
    options = [p for p in command.params if p.name != "help"]
    assert any("--json" in p.opts for p in options)
    assert command.help
    assert [] == [p.opts for p in options if p.param_type_name == "option" and not p.help]


def test_env_example_has_every_setting() -> None:
    """`.env.example` names each setting once, each below a comment, with its default where it has one."""
    text = ENV_EXAMPLE.read_text()
    given = dict(re.findall(r"^#? ?([A-Z_]+)=(.*)$", text, re.MULTILINE))
    shown = {name: value for name, value in given.items() if re.search(rf"^{name}=", text, re.MULTILINE)}
    engines = [
        f"{kind}_ENGINE_{name.upper()}"
        for kind in ("LLM", "EMBEDDING", "RERANK", "SPEECH", "TTS", "IMAGE")
        for name in EngineSettings.model_fields
    ]
    traces = (export.ENDPOINTS[1], export.SAMPLER, export.SAMPLER_ARG)
    every = {name.upper() for name in (*Settings.model_fields, *MinerSettings.model_fields)}
    every = every.union(engines, traces)
    assert every == given.keys()
    assert Settings(_env_file=None) == Settings(_env_file=ENV_EXAMPLE)
    assert all(Settings.model_fields[name.lower()].default is not None for name in shown)


def test_keys_are_made_once(tmp_path: Path) -> None:
    """Keys for development are made for each role, complete, and read again afterwards."""
    first = dev_files.load_or_create(tmp_path / "data")
    assert set(dev_files.ROLES) == set(first)
    assert first == dev_files.load_or_create(tmp_path / "data")
    assert len(set(first.values())) == 3
    assert ["dev-keys.env"] == [path.name for path in (tmp_path / "data").iterdir()]


HOSTILE = {
    "\x1b[2J": r"\x1b[2J",
    "\x1b]8;;http://evil.example\x07link": r"\x1b]8;;http://evil.example\x07link",
    "a\nCOMPLETED": r"a\nCOMPLETED",
    "a\r\tb": r"a\r\tb",
    "\x9b31m\x85": r"\x9b31m\x85",
    "\u202egpj.exe": r"\u202egpj.exe",
    "\u2066x\u2069\u200f": r"\u2066x\u2069\u200f",
    "a\u200bb\u200d\ufeff\u00ad": r"a\u200bb\u200d\ufeff\xad",
    "\u2028\u2029": r"\u2028\u2029",
    "\u3164\u115f\u2800": r"\u3164\u115f\u2800",
    "\U000e0041\ud800": r"\U000e0041\ud800",
}


@every("text", HOSTILE)
def test_text_from_strangers_can_not_steer_the_terminal(text: str) -> None:
    """Text that acts on a terminal, hides or begins a line is shown as escapes, wherever it appears."""
    assert HOSTILE[text] == terminal.plain(text)


def test_a_result_does_not_replace_our_fields(capsys: pytest.CaptureFixture[str]) -> None:
    """A miner names the fields of its result; ours keep their place."""
    found = SimpleNamespace(result={"state": "FAILED", "job_id": "x", "text": "a\nstate  FAILED"})

    class Handle:
        job_id = "job-1"

        async def wait(self, _: float | None) -> Any:
            return SimpleNamespace(job_id="job-1", state="COMPLETED")

        async def result(self) -> Any:
            return found

    asyncio.run(job._finish(Handle(), None, False))  # type: ignore[arg-type]
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [
        ["job_id", "job-1"],
        ["state", "COMPLETED"],
        ["result.state", "FAILED"],
        ["result.job_id", "x"],
        ["text", r"a\nstate", "FAILED"],
    ] == shown


def test_a_fact_of_an_event_is_one_fact() -> None:
    """In `log show` a text with spaces is quoted: it could look like further facts."""
    assert ["word", '"a retryable=true"', '"a\\n"', '{"a":1}', '"="'] == [
        log._short(value) for value in ("word", "a retryable=true", "a\n", {"a": 1}, "=")
    ]


def test_text_of_all_languages_is_shown_as_it_is() -> None:
    """Umlauts, other scripts, wide spaces and symbols are not escapes."""
    text = "grün 日本語\u3000عربى हिन्दी 👍 é\u0301"
    assert text == terminal.plain(text)


@every("text", HOSTILE)
def test_strangers_texts_are_one_line_in_tables_and_fields(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names, values and cells stay on their line, and rich's markup is text."""
    terminal.fields({f"name{text}": f"[red]{text}[/red]", "list": [f"x{text}"]})
    terminal.table(("A", "B"), [(f"[link=x]{text}", text)], "nothing")
    out = capsys.readouterr().out
    assert 4 == len(out.splitlines()) == out.count("\n")
    assert f"name{HOSTILE[text]}" in out
    assert f"[red]{HOSTILE[text]}[/red]" in out
    assert f"[link=x]{HOSTILE[text]}" in out
    assert all(one.isprintable() for one in out.replace("\n", ""))


@every("text", HOSTILE)
def test_json_is_exact_and_still_harmless(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Programs get the very text; on the way it is JSON's escapes."""
    terminal.document({text: [text, "grün"]})
    terminal.line({"x": text})
    out = capsys.readouterr().out
    first, second = out.splitlines()
    assert ({text: [text, "grün"]}, {"x": text}) == (json.loads(first), json.loads(second))
    assert "grün" in out
    assert all(one.isprintable() for one in out.replace("\n", ""))


@pytest.mark.parametrize("text", HOSTILE)
def test_errors_are_two_lines(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Code, cause and next step of an answer are a stranger's, too."""
    answer = {"code": f"ODD{text}", "detail": f"why{text}", "next_step": f"do{text}"}
    report(explain(refusal(400, answer)), False)
    err = capsys.readouterr().err
    assert f"why{HOSTILE[text]}" in err
    assert 2 >= err.count("\n") == len(err.splitlines())


def test_sizes_and_moments() -> None:
    """Sizes in decimal units, moments as the HTTP answers have them."""
    assert ["0 B", "999 B", "1.0 kB", "1.5 MB", "2.0 GB", "3.0 TB"] == [
        terminal.size(n) for n in (0, 999, 1000, 1_500_000, 2 * 10**9, 3 * 10**12)
    ]
    assert "2026-01-31T12:00:00.250Z" == terminal.moment(1_769_860_800_250)


def test_json_objects(tmp_path: Path) -> None:
    """A JSON object is read from the option or a file; whatever else is a usage error that says where."""
    file = tmp_path / "payload.json"
    file.write_text('{"a": [1]}')
    assert {"a": [1]} == json_object('{"a": [1]}', "--payload") == json_object(f"@{file}", "--payload")
    file.write_bytes(b"\xff")
    for text, cause in (
        ("[]", "--payload must be"),
        ("{", "--payload is not JSON"),
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
        (f"@{file}", "not UTF-8"),
        (f"@{tmp_path}", "directory"),
        ("@missing", "No such file"),
    ):
        with pytest.raises(CommandError, match=cause) as raised:
            json_object(text, "--payload")
        assert Exit.USAGE == raised.value.exit_code


@every("code", Code)
def test_every_refusal_has_an_exit_code(code: Code) -> None:
    """No refusal looks like success, like a job that failed, or like a bug of ours."""
    told = explain(refusal(400, {"code": code.value, "detail": "why"}))
    assert (code.value, "why") == (told.code, told.cause)
    assert told.exit_code in (Exit.REFUSED, Exit.NOT_FOUND, Exit.AUTH, Exit.UNREACHABLE, Exit.UNVERIFIED)


@every(
    "arguments",
    [
        ("job", "show", "x"),
        ("job", "watch", "0190163d-8694-739b-aea5-966c26f8ad91", "../x"),
        ("receipt", "show", "x"),
        ("key", "revoke", "x"),
        ("job", "list", "--state", "x"),
        ("miner", "list", "--state", "x"),
        ("key", "list", "--role", "x"),
        ("job", "list", "--url", "http://127.0.0.1:99999"),
        ("miner", "run", "--api-key", "m:secret-secret", "--amqp-url", "http://hunter2@mq"),
        ("miner", "run", "--api-key", "m:secret-secret", "--work-dir", "/dev/null/x"),
    ],
)
def test_what_can_not_be_meant_is_a_usage_error(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is sent: 2, nothing on stdout, a cause and a next step, and no secret."""
    code = main((*arguments, "--json"))
    said = capsys.readouterr()
    told = json.loads(said.err)
    assert (Exit.USAGE, "") == (code, said.out)
    assert told["next_step"]
    assert "hunter2" not in said.err


def test_a_file_that_is_no_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Is said to be none, and is no bug of ours."""
    (tmp_path / DATABASE_FILE).write_text("no database" * 1000)
    code = main(("log", "show", "--data-dir", str(tmp_path), "--json"))
    assert (Exit.UNVERIFIED, "DATABASE") == (code, json.loads(capsys.readouterr().err)["code"])


def test_unexpected_errors_are_not_swallowed() -> None:
    """What nobody expected is reported as a bug, with its type; of several at once the first."""
    told = explain(ExceptionGroup("tasks", [ZeroDivisionError("x"), ValueError("y")]))
    assert ("BUG", "ZeroDivisionError: x", Exit.BUG) == (told.code, told.cause, told.exit_code)


def test_a_foreign_queue_and_a_refusing_broker_are_no_bugs() -> None:
    """What a start meets on the broker is named, with the next step, and has a code of its own."""
    foreign = explain(ExceptionGroup("start", [TopologyMismatch("the queue coordinator.commands exists")]))
    assert ("TOPOLOGY", Exit.REFUSED) == (foreign.code, foreign.exit_code)
    assert "the queue coordinator.commands exists" == foreign.cause
    assert "virtual host" in foreign.next_step
    refused = explain(BrokerRefused("RabbitMQ refused the password"))
    assert ("BROKER", Exit.USAGE) == (refused.code, refused.exit_code)


def test_what_says_nothing_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Fields without a value are left out, also inside of others; false and zero are values."""
    terminal.fields({"a": None, "b": {"c": None, "d": 0}, "e": False, "f": [], "g": "x"})
    assert ['b  {"d": 0}', "e  False", "g  x"] == capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("text", HOSTILE)
def test_log_lines_are_ours_alone(
    text: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the log for people each fact is one line, and errors' texts are behind a margin."""
    with own_logging(monkeypatch):
        configure_logs("console")
        logger = structlog.get_logger()
        logger.warning("a.fact", reason=text, spaced=f"with space {text}", several=[text])
        try:
            raise ValueError(f"boo\n2026-01-01T00:00:00Z [info] forged {text}")
        except ValueError:
            logger.exception("a.failure")
            logging.getLogger("library").exception("oh %s", f"no\nforged {text}")
    lines = capfd.readouterr().err.split("\n")
    assert all(one.isprintable() or one == "\t" for line in lines for one in line)
    ours = [line for line in lines if line and not line.startswith(terminal.MARGIN.strip())]
    assert [True] * 3 == [
        name in line for name, line in zip(("a.fact", "a.failure", "library"), ours, strict=True)
    ]
    assert HOSTILE[text] in ours[0]


@contextmanager
def own_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process's logging as it was, afterwards."""
    before = structlog.get_config()
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    try:
        yield
    finally:
        structlog.configure(**before)


STRANGE = "Zoë … 漢 🎉"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "utf-8"])
def test_characters_that_the_terminal_lacks_are_escaped(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """Text has escapes where the terminal's encoding has no such character, and JSON stays the same JSON."""

    screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", screen)
    assert 0 == main(["--version"])  # every command begins with it

    def written(action: Callable[[], object]) -> str:
        screen.flush()
        screen.buffer.truncate(0)
        screen.buffer.seek(0)
        action()
        screen.flush()
        return screen.buffer.getvalue().decode(encoding)

    shown = STRANGE.encode(encoding, "backslashreplace").decode(encoding)
    assert f"{shown}\n" == written(lambda: terminal.write(STRANGE))
    assert shown in written(lambda: terminal.table(["NAME"], [[STRANGE]], "none"))
    assert shown in written(lambda: terminal.fields({"name": STRANGE}))
    for form in (terminal.document, terminal.line):
        assert {STRANGE: STRANGE} == json.loads(written(partial(form, {STRANGE: STRANGE})))


def test_payloads_are_utf_8_on_every_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A payload from stdin or a file is read as UTF-8, with a byte order mark or without."""
    for content in (
        json.dumps({"a": STRANGE}, ensure_ascii=False).encode(mark) for mark in ("utf-8", "utf-8-sig")
    ):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))
        assert {"a": STRANGE} == json_object("-", "--payload")
        (tmp_path / "payload.json").write_bytes(content)
        assert {"a": STRANGE} == json_object(f"@{tmp_path / 'payload.json'}", "--payload")


def test_a_service_is_shown_with_the_fields_of_all_its_forms() -> None:
    """Where `if` chooses between forms of a payload, each field names the forms that have it."""
    entries = {entry["id"]: entry["input_schema"] for entry in load_catalog()}
    video = service._fields(entries["video_transcoding"])
    forms = {
        name: form for name, form in entries["video_transcoding"]["$defs"].items() if "properties" in form
    }
    assert {row[0] for row in video} == {name for form in forms.values() for name in form["properties"]}
    assert [["required", ""]] == [[row[1], row[3]] for row in video if row[0] == "input_url"]
    assert ["Thumbnail"] == [row[3] for row in video if row[0] == "at_seconds"]
    audio = service._fields(entries["audio_processing"])
    assert [(name, "") for name in entries["audio_processing"]["properties"]] == [
        (row[0], row[3]) for row in audio
    ]


def test_a_log_that_can_not_be_written_ends_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk beneath the log costs the line, and raises nothing where the line is written."""

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    before = structlog.get_config()
    try:
        configure_logs("json")
        structlog.get_logger("test").bind().warning("lost", code="FULL")
    finally:
        structlog.configure(**before)


def test_other_libraries_lines_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    """With LOG_FORMAT=json a line of another library, with its error, is one object as ours are."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        configure_logs("json")
        try:
            raise ValueError("no\nbroker")
        except ValueError:
            logging.getLogger("library").error("lost %s", "it", exc_info=True)
        [line] = capsys.readouterr().err.splitlines()
    finally:
        structlog.configure(**before)
        root.handlers[:] = handlers
        root.setLevel(level)
    told = json.loads(line)
    assert ("lost it", "library", "error") == (told["event"], told["logger"], told["level"])
    assert told["exception"].endswith("ValueError: no\nbroker")
    assert told["timestamp"].endswith("Z")
