"""Which commit a run uses, against real repositories: a bare one as the remote, and a clone."""

from __future__ import annotations

import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from launcher.code_pin import https_url, pin
from launcher.conf.schema import CodeConf, KeyConf
from launcher.errors import ConfError
from launcher.render import TEMPLATES


def _git(folder: Path, *arguments: str) -> str:
    identity = [
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@example.org",
        "-c",
        "init.defaultBranch=main",
    ]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def _commit(folder: Path, name: str, text: str = "") -> str:
    (folder / name).write_text(text or name)
    _git(folder, "add", "--", name)
    _git(folder, "commit", "-q", "-m", name)
    return _git(folder, "rev-parse", "HEAD")


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """A bare repository."""
    folder = tmp_path / "remote.git"
    folder.mkdir()
    _git(folder, "init", "-q", "--bare")
    _git(folder, "config", "uploadpack.allowReachableSHA1InWant", "true")
    return folder


@pytest.fixture
def clone(tmp_path: Path, remote: Path) -> Path:
    """A clone with one pushed commit on main."""
    folder = tmp_path / "clone"
    _git(tmp_path, "clone", "-q", str(remote), str(folder))
    _git(folder, "checkout", "-q", "-b", "main")
    _commit(folder, "first.txt")
    _git(folder, "push", "-q", "-u", "origin", "main")
    return folder


def _repo(remote: Path, ref: str = "") -> CodeConf:
    return CodeConf(kind="repo", repo=str(remote), ref=ref)


def test_refs_of_every_kind_become_the_commit(clone: Path, remote: Path, tmp_path: Path) -> None:
    """HEAD, branch, light and annotated tag (peeled), full and short sha."""
    sha = _git(clone, "rev-parse", "HEAD")
    _git(clone, "tag", "light")
    _git(clone, "tag", "-a", "v1", "-m", "one")
    _git(clone, "push", "-q", "--tags")
    for ref in ("", "main", "refs/heads/main", "light", "v1", "refs/tags/v1", sha, sha[:8]):
        assert pin(_repo(remote, ref), local=False, cwd=tmp_path).commit == sha, ref


def test_a_short_sha_inside_the_history_is_looked_up_in_this_checkout(
    clone: Path, remote: Path, tmp_path: Path
) -> None:
    """A server lists only the tips."""
    inner = _git(clone, "rev-parse", "HEAD")
    _commit(clone, "second.txt")
    _git(clone, "push", "-q")
    assert pin(_repo(remote, inner[:9]), local=False, cwd=clone).commit == inner
    with pytest.raises(ConfError, match=r"no branch, tag or commit .*write all 40 digits"):
        pin(_repo(remote, inner[:9]), local=False, cwd=tmp_path)


def test_a_full_sha_needs_no_server(tmp_path: Path) -> None:
    """So that a run can be planned again when the server is away."""
    assert pin(_repo(tmp_path / "nowhere", "a" * 40), local=False, cwd=tmp_path).commit == "a" * 40


def test_an_unknown_ref_gets_a_proposal(clone: Path, remote: Path) -> None:
    """From the names that the remote has."""
    with pytest.raises(ConfError, match='did you mean "main"'):
        pin(_repo(remote, "mian"), local=False, cwd=clone)


def test_a_repository_that_cannot_be_read_is_a_fault_with_git_s_reason(tmp_path: Path) -> None:
    """And the command to try."""
    with pytest.raises(
        ConfError,
        match=r"cannot read .*nowhere' does not appear to be a git repository .*git ls-remote",
    ):
        pin(_repo(tmp_path / "nowhere", "main"), local=False, cwd=tmp_path)


def test_a_clean_pushed_tree_is_its_commit_without_a_diff(clone: Path, remote: Path) -> None:
    """The usual case."""
    found = pin(CodeConf(), local=False, cwd=clone)
    assert (found.commit, found.diff, found.repo, found.ref) == (
        _git(clone, "rev-parse", "HEAD"),
        "",
        str(remote),
        "main",
    )


def _untouched(clone: Path) -> str:
    return _git(clone, "status", "--porcelain=v1") + _git(clone, "diff", "--cached")


def test_local_changes_of_every_kind_travel_and_apply(clone: Path, tmp_path: Path) -> None:
    """Unpushed commits, edits, deletions, untracked and binary files, modes, odd names; the index stays as it was."""
    base = _git(clone, "rev-parse", "HEAD")
    _commit(clone, "unpushed.txt")
    (clone / "first.txt").write_text("changed\r\nwith CR\n")
    (clone / "new é.txt").write_text("untracked")
    (clone / "latin.txt").write_bytes("é\n".encode("latin-1"))
    (clone / "blob.bin").write_bytes(bytes(range(256)))
    (clone / "run.sh").write_text("#!/bin/sh\n")
    (clone / "run.sh").chmod(0o755)
    (clone / ".gitignore").write_text("ignored\n")
    (clone / "ignored").write_text("x")
    before = _untouched(clone)
    found = pin(CodeConf(), local=False, cwd=clone)
    assert _untouched(clone) == before
    assert found.commit == base
    copy = tmp_path / "copy"
    _git(tmp_path, "clone", "-q", str(clone), str(copy))
    _git(copy, "checkout", "-q", base)
    (tmp_path / "code.diff").write_bytes(found.diff.encode())
    _git(copy, "apply", "--whitespace=nowarn", str(tmp_path / "code.diff"))
    for name in (
        "first.txt",
        "unpushed.txt",
        "new é.txt",
        "latin.txt",
        "blob.bin",
        "run.sh",
        ".gitignore",
    ):
        assert (copy / name).read_bytes() == (clone / name).read_bytes(), name
    assert os.access(copy / "run.sh", os.X_OK)
    assert not (copy / "ignored").exists()


def test_settings_of_the_person_do_not_change_the_diff(clone: Path) -> None:
    """diff.noprefix and external diffs make patches that do not apply."""
    (clone / "first.txt").write_text("changed")
    plain = pin(CodeConf(), local=False, cwd=clone).diff
    for key, value in [
        ("diff.noprefix", "true"),
        ("diff.external", "/bin/false"),
        ("color.diff", "always"),
        ("diff.mnemonicPrefix", "true"),
    ]:
        _git(clone, "config", key, value)
    assert pin(CodeConf(), local=False, cwd=clone).diff == plain


def test_the_newest_pushed_ancestor_is_found_across_a_merge(clone: Path) -> None:
    """Where one side of the merge was pushed."""
    _git(clone, "checkout", "-q", "-b", "side")
    pushed = _commit(clone, "side.txt")
    _git(clone, "push", "-q", "-u", "origin", "side")
    _git(clone, "checkout", "-q", "main")
    _commit(clone, "mine.txt")
    _git(clone, "merge", "-q", "--no-edit", "side")
    assert pin(CodeConf(), local=False, cwd=clone).commit in {
        pushed,
        _git(clone, "rev-parse", "origin/main"),
    }


def test_a_branch_that_the_remote_deleted_counts_no_more(clone: Path, remote: Path) -> None:
    """The pod could not fetch its commits."""
    main = _git(clone, "rev-parse", "HEAD")
    _git(clone, "checkout", "-q", "-b", "gone")
    _commit(clone, "gone.txt")
    _git(clone, "push", "-q", "-u", "origin", "gone")
    _git(remote, "branch", "-q", "-D", "gone")
    assert pin(CodeConf(), local=False, cwd=clone).commit == main


def test_what_the_remote_does_not_have_at_all_is_an_error_with_the_push_command(
    tmp_path: Path, remote: Path
) -> None:
    """An empty remote."""
    folder = tmp_path / "fresh"
    folder.mkdir()
    _git(folder, "init", "-q")
    _commit(folder, "a.txt")
    with pytest.raises(ConfError, match="no remote"):
        pin(CodeConf(), local=False, cwd=folder)
    _git(folder, "remote", "add", "origin", str(remote))
    with pytest.raises(ConfError, match="git push -u origin main"):
        pin(CodeConf(), local=False, cwd=folder)


def test_changes_beyond_the_cap_are_refused_with_their_size(clone: Path) -> None:
    """And one large untracked file is named before it is read."""
    (clone / "noise.bin").write_bytes(os.urandom(1_500_000))
    with pytest.raises(ConfError, match=r"a diff of \d+ KB; 1000 KB travel"):
        pin(CodeConf(), local=False, cwd=clone)
    with (clone / "video.mp4").open("wb") as file:
        file.truncate(3_000_000_000)
    with pytest.raises(ConfError, match=r"video\.mp4"):
        pin(CodeConf(), local=False, cwd=clone)


def test_outside_of_a_checkout_there_is_nothing_to_pin(tmp_path: Path) -> None:
    """On a cluster an error; on this machine the folder runs as it is."""
    with pytest.raises(ConfError, match="no git checkout"):
        pin(CodeConf(), local=False, cwd=tmp_path)
    found = pin(CodeConf(), local=True, cwd=tmp_path)
    assert (found.kind, found.commit, found.repo) == ("worktree", "", "")


def test_on_this_machine_the_tree_is_recorded_without_asking_a_remote(
    clone: Path, remote: Path
) -> None:
    """No network, no push needed; `repo` without a ref means the same."""
    remote.rename(remote.with_name("away"))
    _commit(clone, "unpushed.txt")
    (clone / "first.txt").write_text("changed")
    for conf in (CodeConf(), _repo(remote)):
        found = pin(conf, local=True, cwd=clone)
        assert (found.kind, found.repo, found.ref) == ("worktree", "", "")
        assert found.commit == _git(clone, "rev-parse", "HEAD")
        assert "+changed" in found.diff


def test_a_repository_without_commits_has_nothing_to_record(tmp_path: Path) -> None:
    """And is no crash."""
    _git(tmp_path, "init", "-q")
    assert pin(CodeConf(), local=True, cwd=tmp_path).commit == ""


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("git@git.example:lab/v.git", "https://git.example/lab/v.git"),
        ("ssh://git@git.example:2222/lab/v.git", "https://git.example/lab/v.git"),
        ("ssh://git@git.example/lab/v", "https://git.example/lab/v"),
        ("https://git.example/lab/v", "https://git.example/lab/v"),
        ("/srv/git/v", "/srv/git/v"),
    ],
)
def test_remotes_by_ssh_become_https(url: str, expected: str) -> None:
    """A pod has no ssh key."""
    assert https_url(url) == expected


def test_a_remote_with_a_token_in_its_url_is_refused() -> None:
    """It would stand in the manifest."""
    with pytest.raises(ConfError, match="token"):
        https_url("https://me:ghp_x@git.example/lab/v")


def _checkout(
    target: Path, remote: Path, commit: str, *, diff: Path | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(target.parent / "home"),
        "VIDJOBS_REPO": str(remote),
        "VIDJOBS_REF": "main",
        "VIDJOBS_COMMIT": commit,
        "VIDJOBS_CODE_DIR": str(target),
        "VIDJOBS_DIFF": str(diff or ""),
    }
    script = (TEMPLATES / "checkout.sh").read_text()
    return subprocess.run(
        ["bash", "-c", script], env=env | more, capture_output=True, text=True, check=False, cwd="/"
    )


def test_the_script_brings_commit_and_changes(clone: Path, remote: Path, tmp_path: Path) -> None:
    """What was pinned here is what lies there; a second attempt of the pod begins anew."""
    (clone / "first.txt").write_text("changed")
    found = pin(CodeConf(), local=False, cwd=clone)
    (tmp_path / "code.diff").write_text(found.diff)
    for _ in range(2):
        done = _checkout(
            tmp_path / "pod" / "code", remote, found.commit, diff=tmp_path / "code.diff"
        )
        assert (done.returncode, done.stderr) == (
            0,
            f"vidjobs code: commit {found.commit} with local changes\n",
        )
        assert (tmp_path / "pod" / "code" / "first.txt").read_text() == "changed"


def test_the_script_fetches_everything_where_single_commits_are_not_given(
    clone: Path, remote: Path, tmp_path: Path
) -> None:
    """An inner commit from a server that gives tips only."""
    inner = _git(clone, "rev-parse", "HEAD")
    _commit(clone, "second.txt")
    _git(clone, "push", "-q")
    _git(remote, "config", "uploadpack.allowReachableSHA1InWant", "false")
    _git(remote, "config", "protocol.version", "0")
    done = _checkout(
        tmp_path / "pod" / "code",
        remote,
        inner,
        GIT_CONFIG_COUNT="1",
        GIT_CONFIG_KEY_0="protocol.version",
        GIT_CONFIG_VALUE_0="0",
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "pod" / "code").glob("*.txt")) == ["first.txt"]


def test_the_script_says_which_commit_is_missing(clone: Path, remote: Path, tmp_path: Path) -> None:
    """64: no retry will find it."""
    done = _checkout(tmp_path / "pod" / "code", remote, "b" * 40)
    assert done.returncode == 64
    assert f"has no commit {'b' * 40}" in done.stderr


def test_the_script_refuses_changes_that_do_not_apply(
    clone: Path, remote: Path, tmp_path: Path
) -> None:
    """64, and nothing half applied runs."""
    (tmp_path / "code.diff").write_text("--- a/none.txt\n+++ b/none.txt\n@@ -1 +1 @@\n-a\n+b\n")
    done = _checkout(
        tmp_path / "pod" / "code",
        remote,
        _git(clone, "rev-parse", "HEAD"),
        diff=tmp_path / "code.diff",
    )
    assert done.returncode == 64
    assert "do not apply" in done.stderr


def test_the_script_touches_no_folder_that_is_not_its_own(
    clone: Path, remote: Path, tmp_path: Path
) -> None:
    """A working tree can never be taken for a checkout."""
    done = _checkout(clone, remote, _git(clone, "rev-parse", "HEAD"))
    assert done.returncode == 64
    assert (clone / "first.txt").exists()


def test_the_token_reaches_git_and_no_file(clone: Path, remote: Path, tmp_path: Path) -> None:
    """Asked for through GIT_ASKPASS; the checkout's config holds none of it."""
    done = _checkout(
        tmp_path / "pod" / "code",
        remote,
        _git(clone, "rev-parse", "HEAD"),
        VIDJOBS_GIT_TOKEN="sesame-123",
    )
    assert done.returncode == 0, done.stderr
    assert "sesame" not in done.stderr
    found = subprocess.run(
        ["grep", "-rl", "sesame-123", str(tmp_path / "pod")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == ""


def test_a_token_stays_a_reference(clone: Path, remote: Path) -> None:
    """To a key of a Secret."""
    conf = CodeConf(
        kind="repo", repo=str(remote), ref="main", token=KeyConf(secret="git", key="token")
    )
    token = pin(conf, local=False, cwd=clone).token
    assert token is not None
    assert (token.secret, token.key) == ("git", "token")


@pytest.mark.parametrize("path", ["v", "v403", "not found"])
def test_a_server_that_does_not_answer_is_tried_again_and_then_left_to_the_next_pod(
    tmp_path: Path, path: str
) -> None:
    """75 after four attempts: a retry of the Job may succeed. Whatever the address looks like, nobody has refused anything."""
    repo = f"http://127.0.0.1:1/{path}"
    done = _checkout(
        tmp_path / "pod" / "code", Path(repo), "a" * 40, VIDJOBS_REPO=repo, VIDJOBS_GIT_PAUSE="0"
    )
    assert done.returncode == 75
    assert done.stderr.count("attempt") == 4
    assert f"cannot reach {repo}" in done.stderr


def test_a_repository_that_refuses_us_is_not_asked_again(tmp_path: Path) -> None:
    """64 at the first answer, and the key of the conf that helps."""

    class Refuses(BaseHTTPRequestHandler):
        code = 403

        def do_GET(self) -> None:
            self.send_error(self.code)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        repo = f"http://127.0.0.1:{server.server_port}/v"
        for code in (401, 403, 404):
            Refuses.code = code
            done = _checkout(
                tmp_path / "pod" / "code",
                Path(repo),
                "a" * 40,
                VIDJOBS_REPO=repo,
                VIDJOBS_GIT_PAUSE="0",
            )
            assert (done.returncode, "job.code.token" in done.stderr) == (64, True), done.stderr
        server.shutdown()
