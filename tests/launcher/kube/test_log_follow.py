"""A log followed over HTTP connections that break: every line once, also on this machine's copy. A real HTTP server breaks them."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_server import MODES, SECOND, Chunk, Cut, Pod, kubeconfig, log_server, whole_lines

from launcher import log_spool
from launcher.backend_base import LogLine
from launcher.backends.kube.client import KubeClient
from launcher.backends.kube.container_log import ContainerLog
from launcher.log_spool import Header, RunSpool, SpooledLog
from launcher.wanted import Wanted

START = 1_795_000_000 * SECOND
STEPS = (0, 1, 1000, 40_000_000, 300_000_000, 900_000_000, 2_500_000_000)
TEXTS = (
    b"",
    b"same",
    b"train Loss: 0.0710 epoch=3",
    b"\r 10%\r 20%",
    "\u00fcber \u0001".encode(),
    b"\xff\xfe not UTF-8",
    b"x" * 5000,
)


@st.composite
def pods(draw: st.DrawFn) -> Pod:
    """A log whose stdout and stderr interleave (times go back a little), some lines in several chunks, and 6 to 20 cuts.

    The choices come from one seed: hypothesis draws few numbers, and shrinks the number of cuts and lines first.
    """
    count, cut_count, dice = (
        draw(st.integers(1, 60)),
        draw(st.integers(6, 20)),
        random.Random(draw(st.integers(0, 2**32))),
    )
    now, chunks = START, []
    for _ in range(count):
        now += dice.choice(STEPS)
        chunks.append(
            Chunk(
                now - dice.choice((0, 0, 0, 700, 2_000_000)),
                dice.choice(TEXTS),
                dice.randrange(6) == 0,
            )
        )
    cuts = [Cut(dice.random(), dice.choices(MODES, (5, 5, 5, 0.02))[0]) for _ in range(cut_count)]
    return Pod(
        chunks,
        cuts,
        block=dice.choice((0, 1, 7, 300, 4096)) if count < 20 else dice.choice((0, 4096)),
    )


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[type, KubeClient]]:
    with log_server() as (handler, address), pytest.MonkeyPatch.context() as patch:
        folder = Path(os.environ.get("TMPDIR", "/tmp"))
        config = kubeconfig(folder, address)
        patch.setenv("KUBECONFIG", str(config))
        client = KubeClient()
        assert client.login
        yield handler, client
        config.unlink()


def follow(
    client: KubeClient, spool: SpooledLog | None = None, wanted: Wanted | None = None
) -> list[LogLine]:
    log = ContainerLog(
        client=client,
        pod="p",
        uid="u-1",
        container="trainer",
        pace_s=0.0,
        spool=spool,
        wanted=wanted,
    )
    return list(log.lines(follow=True))


def spooled(run: str) -> SpooledLog:
    return RunSpool(run).log("u-1", Header(pod="p", container="trainer"))


@pytest.mark.slow
def test_every_line_once_whatever_the_cuts(served: tuple[type, KubeClient]) -> None:
    """Over a thousand connections reset, ended cleanly while the container runs, or torn within a chunk: none lost, doubled or marked.

    And what was kept of it meanwhile says the same, without a server.
    """
    handler, client = served
    cuts = 0

    @settings(
        max_examples=120, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(pods())
    def check(pod: Pod) -> None:
        nonlocal cuts
        handler.pod = pod
        run = f"run-{cuts}"
        log_spool.forget(run)
        lines = follow(client, spooled(run))
        assert [line.text for line in lines] == whole_lines(pod.chunks)
        assert {line.kind for line in lines} <= {"line"}
        cuts += len(pod.cuts)
        asked = pod.asked
        assert follow(client, spooled(run)) == lines
        assert pod.asked == asked, "an ended log that is kept whole is not asked for again"

    check()
    assert cuts >= 1000


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(pods())
def test_a_grep_sees_the_same_lines(served: tuple[type, KubeClient], pod: Pod) -> None:
    """And counts the others, also where many come as one text."""
    handler, client = served
    handler.pod = pod
    lines = follow(client, wanted=Wanted((re.compile("Loss"),), joined=True))
    texts = [text for line in lines if line.kind == "line" for text in line.text.split("\n")]
    assert [text for text in texts if "Loss" in text] == [
        text for text in whole_lines(pod.chunks) if "Loss" in text
    ]
    assert len(texts) + sum(line.skipped for line in lines) == len(whole_lines(pod.chunks))


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(pods(), st.floats(0, 1) | st.floats(0.95, 1), st.integers(0, 2**32))
def test_a_killed_follower_leaves_a_copy_that_the_next_one_completes(
    served: tuple[type, KubeClient], pod: Pod, share: float, run: int
) -> None:
    """However many bytes of it reached the disk: the next follow shows every line once, and asks only for what is missing."""
    handler, client = served
    handler.pod = pod
    log_spool.forget(str(run))
    lines = follow(client, spooled(str(run)))
    path = spooled(str(run)).path
    os.truncate(path, int(path.stat().st_size * share))
    again = follow(client, spooled(str(run)))
    assert again == lines
    assert follow(client, spooled(str(run))) == lines


def test_a_deleted_pod_leaves_a_mark_unless_the_trainer_said_its_last_words(
    served: tuple[type, KubeClient],
) -> None:
    """A cancelled run's log is whole when it ends as the trainer ends it."""
    handler, client = served
    closing = b"error: stopped by SIGTERM after step 7 in epoch 2; its state is saved and a retry goes on from it"
    for last, kinds in (
        (b"train Loss: 1.0 epoch=2", ["line", "line", "gap"]),
        (closing, ["line", "line"]),
    ):
        handler.pod = Pod(
            [Chunk(START, b"one"), Chunk(START + 1, last), Chunk(START + 2, b"never served")],
            [Cut(1.0, "eof")] * 2,
        )
        log = ContainerLog(client=client, pod="p", uid="u-1", container="trainer", pace_s=0.0)
        shown = []
        for line in log.lines(follow=True):
            shown.append(line)
            handler.pod.gone = len(shown) == 2 or handler.pod.gone
        assert [line.kind for line in shown] == kinds


def test_the_end_of_a_log_is_not_waited_for(served: tuple[type, KubeClient]) -> None:
    """Two follows begin a pace apart; a container that has ended meanwhile is read to its end at once."""
    handler, client = served
    handler.pod = Pod([Chunk(START, b"one"), Chunk(START + 1, b"two")], [Cut(1.0, "eof")])
    start = time.monotonic()
    log = ContainerLog(client=client, pod="p", uid="u-1", container="trainer", pace_s=60.0)
    assert [line.text for line in log.lines(follow=True)] == ["one", "two"]
    assert time.monotonic() - start < 30


def test_only_one_process_writes_a_copy(served: tuple[type, KubeClient]) -> None:
    """A second follower beside the first shows all and writes nothing."""
    handler, client = served
    handler.pod = pod = Pod(
        [Chunk(START + number, b"%d" % number) for number in range(9)], [Cut(1.0, "eof")]
    )
    first = spooled("two")
    first.open()
    assert [line.text for line in follow(client, spooled("two"))] == whole_lines(pod.chunks)
    first.append([b"2026-01-01T00:00:00.000000000Z mine"])
    first.end()
    kept = spooled("two").path.read_bytes().splitlines()
    assert kept[1:] == [b"2026-01-01T00:00:00.000000000Z mine", b"\0end"]


def test_a_copy_that_has_its_share_ends_early_and_the_follow_goes_on(
    served: tuple[type, KubeClient],
) -> None:
    """Nothing is lost on the screen; what is kept is a whole part from the start."""
    handler, client = served
    handler.pod = pod = Pod(
        [Chunk(START + number, b"line %d" % number) for number in range(500)],
        [Cut(0.5, "reset")] * 3,
    )
    for _ in range(2):
        spool = SpooledLog(spooled("small").path, Header(pod="p", container="trainer"), limit=5000)
        assert [line.text for line in follow(client, spool)] == whole_lines(pod.chunks)
        assert not spool.ended
        assert spool.path.stat().st_size <= 5000
        pod.asked = 0


def test_the_oldest_runs_make_room(served: tuple[type, KubeClient]) -> None:
    """By when they were followed last; the newest stays whatever its size."""
    for number, run in enumerate(("a", "b", "c")):
        log = spooled(run)
        log.open()
        log.append([b"x" * 1000])
        log.close()
        os.utime(log.path, (number, number))
    log_spool.make_room(limit=2500)
    assert [spooled(run).path.exists() for run in ("a", "b", "c")] == [False, True, True]
    log_spool.make_room(limit=10)
    assert [spooled(run).path.exists() for run in ("a", "b", "c")] == [False, False, True]


def test_what_was_seen_is_left_out_of_the_folders_log() -> None:
    """train.log is told again only as far as no pod's log had it; of equal lines the later ones are new."""
    log = log_spool.FolderLog(["a", "b", "a", "c"])
    for text in ("x", "a", "b"):
        log.seen(text)
    assert list(log.rest()) == ["a", "c"]


MEASURE = """
from pathlib import Path
from launcher.backends.kube.client import KubeClient
from launcher.backends.kube.container_log import ContainerLog
from launcher.log_spool import Header, RunSpool
spool = RunSpool("big").log("u-1", Header(pod="p", container="trainer"))
log = ContainerLog(client=KubeClient(), pod="p", uid="u-1", container="trainer", pace_s=0.0, spool=spool)
lines = sum(1 for line in log.lines(follow=True))
print(lines, Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])  # its own peak; ru_maxrss begins at the parent's
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_log(served: tuple[type, KubeClient]) -> None:
    """30 MB of lines, a megabyte line among them, and a cut: under 60 MiB in a process of its own."""
    handler, _ = served
    chunks = [
        Chunk(
            START + 1_000_000 * number, b"train Loss: 0.0710 epoch=3 step=%d " % number + b"x" * 60
        )
        for number in range(250_000)
    ]
    chunks[100] = Chunk(chunks[100].ns, b"y" * 1_000_000)
    handler.pod = Pod(chunks, [Cut(0.7, "reset")], block=65536)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, env=os.environ
    )
    lines, resident = map(int, done.stdout.split())
    assert lines == 250_000
    assert resident <= 60 * 1024, f"{resident} KiB"
