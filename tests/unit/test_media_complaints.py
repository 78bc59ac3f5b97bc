"""What ffmpeg says becomes one code for one cause, and a sentence without addresses and paths."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from coordinator.miner.executors.errors import (
    EXECUTOR_FAILED,
    EXECUTOR_KILLED,
    INPUT_TOO_LARGE,
    INVALID_PAYLOAD,
    RESOURCE_LIMIT,
    UNSUPPORTED,
    ExecutorError,
)
from coordinator.miner.executors.limits import Bound
from coordinator.miner.executors.media.complaints import failure
from coordinator.miner.executors.media.log import Complaint, Counts, Log, Stream
from coordinator.miner.executors.media.output import Output
from coordinator.miner.executors.media.packets import PACKETS_FILE, Track, read_packets
from coordinator.miner.executors.process import STDERR_BYTES
from coordinator.miner.executors.speech import check_heard
from tests.harness.cases import every

OPENED = "[info] Input #0, wav, from 'file:input':"
UNREADABLE = "[in#0 @ 0x7ffd8b95f8d0] [error] Error opening input: Invalid data found when processing input"
NO_LAYOUT = "[libopus @ 0x55d0] [error] Invalid channel layout 5.1(side) for specified mapping family -1."
NO_ENCODER = "[aost#0:0/libopus @ 0x5] [enc:libopus @ 0x6] [error] Error while opening encoder - maybe x"
GENERIC = "[out#0/mp4 @ 0x55d0] [error] Nothing was written into output file"
NO_FRAME = "[in#0/png_pipe @ 0x5] [verbose]   Input stream #0:0 (video): 1 packets read (9 bytes); "
NO_DECODER = "[aist#0:0/pcm_s16le @ 0x5] [dec:pcm_s16le @ 0x6] [error] Error while opening decoder: Invalid"
NOT_MEDIA = "the source is not a media file of a format that is read here"
FORMATS = "mp4, mov, mkv, webm, avi, mxf, ts, mp3, m4a, wav, aiff, flac and ogg are, and some more"
NO_SOUND, NO_PICTURES = (f"the output has no {kind}, though the source has" for kind in ("sound", "pictures"))


def log_of(*lines: str) -> Log:
    log = Log()
    for line in lines:
        log.line(line)
    return log


@every(
    ("lines", "code", "detail"),
    [
        (
            ["[error] Failed to set value '0:a:0' for option 'map': Invalid argument"],
            (INVALID_PAYLOAD, False),
            "the source has no sound",
        ),
        (
            [OPENED, "[fatal] Stream map '0:V:0' matches no streams."],
            (INVALID_PAYLOAD, False),
            "the source has no pictures",
        ),
        (
            ["[in#0 @ 0x7ffd8b95f8d0] [error] moov atom not found", UNREADABLE],
            (INVALID_PAYLOAD, False),
            (
                "the source has no index (moov atom not found): it was cut, or its recording never ended; "
                "send the whole file"
            ),
        ),
        (
            [UNREADABLE],
            (INVALID_PAYLOAD, False),
            f"{NOT_MEDIA} (Error opening input: Invalid data found when processing input)",
        ),
        (
            ["[au @ 0x55d0] [error] Format not on whitelist 'aac,ac3,aiff'", UNREADABLE],
            (INVALID_PAYLOAD, False),
            f"{NOT_MEDIA}; {FORMATS}",
        ),
        ([], (INVALID_PAYLOAD, False), f"{NOT_MEDIA} (ffmpeg gave no reason)"),
        (
            [OPENED, NO_LAYOUT, NO_ENCODER, GENERIC],
            (EXECUTOR_FAILED, False),
            (
                "libopus does not take its settings: Invalid channel layout 5.1(side) for specified mapping "
                "family -1"
            ),
        ),
        (
            [OPENED, "[vist#0:0 @ 0x5] [error] Decoding requested, but no decoder found for: av9"],
            (UNSUPPORTED, True),
            "this miner has no decoder for av9",
        ),
        (
            [OPENED, "[vost#0:0 @ 0x5635b1835f80] [fatal] Unknown encoder 'libx266'"],
            (UNSUPPORTED, True),
            "this miner has no encoder libx266",
        ),
        (
            [OPENED, "[out#0/mp4 @ 0x55c8] [error] Could not write header: No space left on device", GENERIC],
            (RESOURCE_LIMIT, True),
            "no space is left on the miner's disk",
        ),
        (
            [
                "[in#0 @ 0x55d0] [error] Number of streams exceeds max_streams parameter (100), see the docs",
                "[fatal] Error opening input files: Cannot allocate memory",
            ],
            (INPUT_TOO_LARGE, False),
            "the source has more than 100 streams",
        ),
        (
            [OPENED, "[h264 @ 0x5] [error] malloc of size 1 failed", "[fatal] Cannot allocate memory"],
            (RESOURCE_LIMIT, True),
            "the work takes more than 1 MiB of memory; send less at once",
        ),
        (
            [OPENED, "[png @ 0x55af5c64] [error] chunk too big in /tmp/job-1/input", GENERIC, NO_FRAME],
            (INVALID_PAYLOAD, False),
            "nothing in the source can be decoded: chunk too big in the file",
        ),
        (
            [OPENED, "[pcm_s16le @ 0x5] [error] Too many channels: 65535", NO_DECODER],
            (INVALID_PAYLOAD, False),
            "the source can't be decoded: Too many channels: 65535",
        ),
        ([OPENED, GENERIC], (EXECUTOR_FAILED, False), "Nothing was written into output file"),
    ],
)
def test_each_cause_has_its_code_and_words(lines: list[str], code: tuple[str, bool], detail: str) -> None:
    """The telling line is found among generic ones, whatever service asked."""
    error = failure(log_of(*lines), 1, "\n".join(lines), Bound(2**20, here=True))
    assert (code, detail) == ((error.code, error.retryable), error.detail)


@pytest.mark.parametrize(("signal", "retryable"), [(9, True), (15, True), (11, False), (6, False)])
def test_a_crash_would_come_again(signal: int, retryable: bool) -> None:
    """A kill may be about other programs; a crash is the input's doing, on every miner."""
    error = failure(Log(), -signal, "", Bound(1))
    assert (EXECUTOR_KILLED, retryable) == (error.code, error.retryable)


def test_titles_of_the_source_are_no_complaints() -> None:
    """ffmpeg repeats the source's tags: they are neither errors nor a length."""
    log = log_of(
        OPENED,
        "[info]     title           : [error] partial file",
        "                  : [error] partial file",
        "[info]   Duration: 00:00:06.00, start: 0.000000, bitrate: 221 kb/s",
        "[info]   Stream #0:0[0x1](und): Audio: aac (LC) (mp4a / 0x6134706D), 44100 Hz, mono, fltp, 69 kb/s",
    )
    assert ([], 6.0, 44_100) == (log.complaints, log.duration, log.streams[0].sample_rate)


def test_a_flood_of_complaints_is_kept_in_part() -> None:
    """A broken file may cause one for each frame: the first and last ones are enough."""
    log = log_of(*(f"[h264 @ 0x5] [error] frame {number}" for number in range(5000)))
    texts = [complaint.text for complaint in log.complaints]
    assert (1000, "frame 0", "frame 4999", 5000) == (len(texts), texts[0], texts[-1], log.complaint_count)


def test_faults_are_counted_whatever_the_version() -> None:
    """ffmpeg before 7 has another sentence for a packet that can't be decoded, and does not count them."""
    log = log_of(
        "[vist#0:0/h264 @ 0x5] [dec:h264 @ 0x6] [warning] corrupt decoded frame",
        "[error] Error while decoding stream #0:1: Invalid data found when processing input",
        "[error] Error while decoding stream #0:1: Invalid data found when processing input",
        "[verbose]   Input stream #0:1 (audio): 9 packets read (90 bytes); 7 frames decoded (7168 samples); ",
    )
    assert ({0: 1, 1: 2}, (9, 7, 7168, 0)) == (log.corrupt_frames, tuple(log.read[1]))


@every(
    "text", ["Stream #0:", "[info]   Stream #0:0: Audio: ", ", 44100 ", "[a @ 0x1] ", " ", "Duration: 0", "x"]
)
def test_lines_take_linear_time(text: str) -> None:
    """Tags of a stranger's file may be long lines of anything."""
    started = time.monotonic()
    flood = text * (2 * STDERR_BYTES // len(text))
    log_of(f"[info] {flood}", flood, f"[a @ 0x1] [error] {flood}")
    assert time.monotonic() - started < 0.5


def test_packets_tell_ends_and_gaps(tmp_path: Path) -> None:
    """Times are in the stream's own unit; those that are not set are left out."""
    unset = -(2**63)
    (tmp_path / PACKETS_FILE).write_text(
        "#software: Lavf\n#tb 0: 1/10\n#media_type 0: audio\n#tb 1: 1001/30000\n#media_type 1: video\n"
        "0,          0,          0,         10,      256, 0xea44782a\n"
        "0,         10,         10,         10,      256, 0xea44782a, S=1, Skip Samples, 10, 0x0\n"
        "0,         35,         35,         10,      256, 0xea44782a\n"
        f"1,          0, {unset},          1,       99, 0x1, F=0x0\n"
        f"1, {unset}, {unset},          1,       99, 0x1\n"
    )
    tracks = read_packets(tmp_path / PACKETS_FILE)
    assert ("audio", 3, 0, 4.5, [(2.0, 3.5)]) == (
        tracks[0].kind,
        tracks[0].packets,
        tracks[0].start,
        tracks[0].end,
        tracks[0].gaps,
    )
    assert (2, 1001 / 30_000, []) == (tracks[1].packets, tracks[1].end, tracks[1].gaps)
    assert {} == read_packets(tmp_path / "none")


@pytest.mark.parametrize(
    ("tracks", "kinds", "seconds", "detail"),
    [
        ([Track("video", 3, 0.0, 3.0)], {"video", "audio"}, (2.9, 3.1), NO_SOUND),
        ([Track("audio", 0)], {"audio"}, None, NO_SOUND),
        ([Track("audio", 9, 0.0, 3.0)], {"video"}, None, NO_PICTURES),
        (
            [Track("audio", 9, 0.0, 1.5)],
            {"audio"},
            (2.9, 3.1),
            "the output is 1.50 s long, in place of 2.90 to 3.10 s",
        ),
    ],
)
def test_a_wrong_output_is_no_result(
    tracks: list[Track], kinds: set[str], seconds: tuple[float, float] | None, detail: str
) -> None:
    """An output without a stream that was wanted, or of another length, is the miner's failure."""
    with pytest.raises(ExecutorError) as failed:
        Output(tracks).check(kinds, seconds)
    assert (EXECUTOR_FAILED, detail) == (failed.value.code, failed.value.detail)


VIDEO, SOUND = Stream("video", "av1", 0, 25.0, False), Stream("audio", "aac", 48_000, 0.0, False)
COPIED = "[info]   Stream #0:1 -> #0:1 (copy)"
GIVEN = (
    "[info] Output #0, mp4, to 'file:output':",
    "[info]   Stream #0:0: Video: av1, yuv420p, 64x64, 25 fps",
    "[info]   Stream #0:1: Audio: aac, 48000 Hz, stereo",
    "[verbose]   Output stream #0:0 (video): 50 frames encoded; 50 packets muxed (9 bytes); ",
    "[verbose]   Output stream #0:1 (audio): 94 frames encoded (96000 samples); 94 packets muxed (9 bytes); ",
)
COMPLAINT = (Complaint("libdav1d", "error", "Error parsing OBU data"),)


@every(
    ("video", "sound", "complaints", "expected"),
    [
        (Counts(50, 50), Counts(94, 94, 96_000), (), None),
        (Counts(50, 50), Counts(96, 96, 98_000), (), None),
        (
            Counts(50, 0, 0, 50),
            Counts(94, 94, 96_000),
            COMPLAINT,
            "50 of the 50 packets of its video can't be decoded (Error parsing OBU data)",
        ),
        (Counts(50, 49), Counts(94, 94, 96_000), (), "49 of the 50 frames of its video come back"),
        (Counts(50, 50), Counts(94, 93, 95_000, 1), (), "1 of the 94 packets of its sound can't be decoded"),
        (Counts(50, 50), Counts(40, 40, 48_000), (), "1.00 of the 2.00 s of its sound come back"),
        (
            Counts(50, 50),
            Counts(94, 94, 96_000),
            COMPLAINT,
            "its decoder complains (Error parsing OBU data)",
        ),
    ],
)
def test_an_output_counts_after_it_was_decoded(
    video: Counts, sound: Counts, complaints: tuple[Complaint, ...], expected: str | None
) -> None:
    """All frames and samples that went into the encoder come back, without a fault."""
    output = Output([], {0: VIDEO, 1: SOUND}, {0: video, 1: sound}, complaints)
    if expected is None:
        assert [] == output.check_decoded(log_of(*GIVEN))
        return
    with pytest.raises(ExecutorError) as failed:
        output.check_decoded(log_of(*GIVEN))
    assert (EXECUTOR_FAILED, f"the output is broken: {expected}") == (failed.value.code, failed.value.detail)


@pytest.mark.parametrize("garbled", range(1, len(GIVEN)))
def test_a_garbled_line_of_the_log_breaks_no_output(garbled: int) -> None:
    """Threads write into each other's lines; what can't be compared with them is compared with the file."""
    log = log_of(*(line if number != garbled else f"x{line}" for number, line in enumerate(GIVEN)))
    good = {0: Counts(50, 50), 1: Counts(94, 94, 96_000)}
    assert [] == Output([], {0: VIDEO, 1: SOUND}, good).check_decoded(log)
    with pytest.raises(ExecutorError, match="49 of the 50 frames"):
        Output([], {0: VIDEO, 1: SOUND}, {**good, 0: Counts(50, 49)}).check_decoded(log)


def test_faults_of_a_copied_track_are_the_source_s() -> None:
    """A few are said, many are refused: the source's packets went into the output as they were."""
    tracks = [Track("audio", 94, 0.0, 2.0)]
    few, many = Counts(94, 93, 95_000, 1), Counts(94, 44, 45_000, 50)
    told = "of its sound, which was copied, can't be decoded: Error parsing OBU data"
    faulty = [
        Output(tracks, {0: VIDEO, 1: SOUND}, {0: Counts(50, 50), 1: one}, COMPLAINT) for one in (few, many)
    ]

    assert [f"the source has faults: about 0.02 s {told}"] == faulty[0].check_decoded(log_of(*GIVEN, COPIED))
    with pytest.raises(ExecutorError) as failed:
        faulty[1].check_decoded(log_of(*GIVEN, COPIED))
    assert (INVALID_PAYLOAD, f"the source is damaged: about 1.06 s {told}") == (
        failed.value.code,
        failed.value.detail,
    )


@every("duration", [None, "x", 0, 9.2, "9.9", 10.0, 30, [], True])
def test_an_engine_that_heard_all_or_says_nothing(duration: object) -> None:
    """Engines round, and not all of them say a length."""
    check_heard({"text": "a", "duration": duration}, 10.0)


def test_an_engine_that_heard_half() -> None:
    """Another miner's engine may hear the rest."""
    with pytest.raises(ExecutorError) as failed:
        check_heard({"text": "a", "duration": 5.0}, 10.0)
    assert (EXECUTOR_FAILED, True, "the engine heard 5.00 s of 10.00 s") == (
        failed.value.code,
        failed.value.retryable,
        failed.value.detail,
    )
