"""Which commit a run uses, settled at submit: a ref of a repository, or this checkout with its local changes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher.code_secrets import secrets_in
from launcher.conf.schema import CodeConf
from launcher.errors import ConfError, Fault, did_you_mean
from launcher.spec import CodePin, SecretKey

MOST_DIFF = 1_000_000  # bytes; a ConfigMap, in which a large diff travels, may have 1 MiB
_SHA = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_SHORT_SHA = re.compile(r"[0-9a-f]{7,39}")
_NETWORK_S = 60


def pin(code: CodeConf, *, local: bool, cwd: Path) -> CodePin:
    """The commit that `code` means now. ConfError when there is none.

    On the local backend (`local`) the working tree runs as it is unless a ref is given; commit and diff are then only recorded.
    """
    token = SecretKey(secret=code.token.secret, key=code.token.key) if code.token else None
    if code.kind == "image":
        return CodePin(kind="image")
    if code.kind == "repo" and not (local and not code.ref):
        return CodePin(
            kind="repo",
            repo=code.repo,
            ref=code.ref,
            commit=resolve_ref(code.repo, code.ref, cwd),
            token=token,
        )
    if local:
        return _as_it_is(code, cwd)
    return _worktree(code, cwd, token)


def resolve_ref(repo: str, ref: str, cwd: Path) -> str:
    """The full sha of a branch, a tag (peeled), a full or a short sha; "" is the repository's HEAD."""
    if _SHA.fullmatch(ref):
        return ref
    refs = remote_refs(repo, cwd)
    for name in (
        f"refs/heads/{ref}",
        f"refs/tags/{ref}^{{}}",
        f"refs/tags/{ref}",
        f"{ref}^{{}}",
        ref or "HEAD",
    ):
        if name in refs:
            return refs[name]
    if _SHORT_SHA.fullmatch(ref):
        tips = {sha for sha in refs.values() if sha.startswith(ref)}
        if len(tips) == 1:
            return tips.pop()
        known = (
            _git(["rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}"], cwd, check=False)
            .decode()
            .strip()
        )
        if known:
            return known
    names = sorted(
        {
            name.removeprefix("refs/heads/").removeprefix("refs/tags/").removesuffix("^{}")
            for name in refs
            if name != "HEAD"
        }
    )
    hint = did_you_mean(ref, names) or f"it has {', '.join(names[:8]) or 'no branch and no tag'}"
    if _SHORT_SHA.fullmatch(ref):
        hint = "a remote tells the commits of branches and tags only: write all 40 digits of another one"
    raise _fault("job.code.ref", f'{repo} has no branch, tag or commit "{ref or "HEAD"}"', hint)


def remote_refs(repo: str, cwd: Path) -> dict[str, str]:
    """Every ref of a repository and its sha. Asks for nothing: credentials are those that git has already."""
    done = _run(["ls-remote", "--", repo], cwd, timeout=_NETWORK_S)
    if done.returncode:
        raise _fault(
            "job.code.repo",
            f"cannot read {repo}: {_reason(done.stderr)}",
            f"try: git ls-remote {repo}",
        )
    pairs = [
        line.split("\t", 1)
        for line in done.stdout.decode(errors="replace").splitlines()
        if "\t" in line
    ]
    return {name: sha for sha, name in pairs}


def _reason(stderr: bytes) -> str:
    """git's first words: its last ones are the same advice whatever is wrong."""
    lines = [
        line
        for line in stderr.decode(errors="replace").splitlines()
        if line.strip() and not line.lower().startswith("warning: ")
    ]
    return lines[0].removeprefix("fatal: ").strip() if lines else "git said nothing"


def https_url(url: str) -> str:
    """A remote's URL as a pod can use it: ssh addresses, for which a pod has no key, become https ones."""
    if match := re.fullmatch(r"(?:ssh://)?[\w.-]+@([\w.-]+)(?::\d+/|:/?|/)(.+)", url):
        return f"https://{match[1]}/{match[2]}"
    if re.match(r"\w+://[^/]*@", url):
        raise _fault(
            "job.code",
            "the remote's URL holds a user or a token",
            "git remote set-url it without, and name a Secret in job.code.token",
        )
    return url


def worktree_diff(top: Path, base: str) -> str:
    """`git diff --binary` of the working tree against `base`, untracked files included; the index is left alone."""
    with tempfile.TemporaryDirectory() as scratch:
        index = Path(scratch) / "index"
        current = Path(_line(["rev-parse", "--git-path", "index"], top))
        if (top / current).exists():
            shutil.copy(top / current, index)
        extra = {"GIT_INDEX_FILE": str(index)}
        _git(["add", "--intent-to-add", "--", "."], top, env=extra)
        form = [
            "--binary",
            "--full-index",
            "--no-color",
            "--no-ext-diff",
            "--no-textconv",
            "--src-prefix=a/",
            "--dst-prefix=b/",
        ]
        raw = _git(["diff", *form, base, "--"], top, env=extra)
        if not _is_text(raw):  # a text file that is not UTF-8: send such files as binary patches
            attributes = Path(scratch) / "attributes"
            attributes.write_text("* binary\n")
            raw = _git(
                ["-c", f"core.attributesFile={attributes}", "diff", *form, base, "--"],
                top,
                env=extra,
            )
    if not _is_text(raw):
        raise _fault(
            "job.code", "the local changes hold a text that is not UTF-8", "commit and push it"
        )
    return raw.decode()


def _worktree(code: CodeConf, cwd: Path, token: SecretKey | None) -> CodePin:
    top = toplevel(cwd)
    if top is None:
        raise _fault(
            "job.code",
            f"{cwd} is no git checkout, so `code: worktree` has nothing to pin",
            "code: {repo: URL, ref: main}, or code: image",
        )
    remote = _remote(top)
    url = code.repo or https_url(_line(["remote", "get-url", remote], top))
    base = _newest_pushed(top, remote)
    _refuse_large_files(top)
    diff = worktree_diff(top, base)
    if len(diff.encode()) > MOST_DIFF:
        size = len(diff.encode()) // 1000
        raise _fault(
            "job.code",
            f"the local changes are a diff of {size} KB; {MOST_DIFF // 1000} KB travel with a Job",
            _push(top, remote),
        )
    _refuse_secrets(diff, code)
    return CodePin(kind="worktree", repo=url, ref=_branch(top), commit=base, diff=diff, token=token)


def _refuse_secrets(diff: str, code: CodeConf) -> None:
    found = secrets_in(diff, code.allow)
    if found:
        named = f"{', '.join(found[:5])}{' and more' if found[5:] else ''}"
        hint = "keep it out of git (.gitignore) and name a Secret in job.secrets; if it is none, name the file in job.code.allow"
        raise _fault(
            "job.code",
            f"the local changes hold what looks like a secret, and everybody who may read Jobs reads them: {named}",
            hint,
        )


def _as_it_is(code: CodeConf, cwd: Path) -> CodePin:
    """A tree that is used in place; commit and diff are empty where git knows neither, or the diff is not to be kept."""
    top = toplevel(cwd)
    head = (
        _git(["rev-parse", "--verify", "--quiet", "HEAD"], top, check=False).decode().strip()
        if top
        else ""
    )
    if top is None or not head:
        return CodePin(kind="worktree", unrecorded="" if top else "there was no git checkout")
    diff, why = "", "untracked files were too large"
    if not _large_files(top):
        diff = worktree_diff(top, head)
        why = (
            f"they are a diff of {len(diff.encode()) // 1000} KB"
            if len(diff.encode()) > MOST_DIFF
            else ""
        )
        why = why or ("they hold what looks like a secret" if secrets_in(diff, code.allow) else "")
    url = (
        _git(["config", "--get", f"remote.{_any_remote(top)}.url"], top, check=False)
        .decode()
        .strip()
    )
    return CodePin(
        kind="worktree",
        commit=head,
        diff="" if why else diff,
        checkout=str(top),
        origin=_without_user(url),
        unrecorded=why,
    )


def _any_remote(top: Path) -> str:
    remotes = _git(["remote"], top).decode().split()
    return "origin" if "origin" in remotes or not remotes else remotes[0]


def _without_user(url: str) -> str:
    """A remote's address without a user or token that stands in it."""
    return re.sub(r"^(https?://)[^/]*@", r"\1", url)


def toplevel(cwd: Path) -> Path | None:
    """The root of the checkout around `cwd`; None when there is none, or no git."""
    if shutil.which("git") is None:
        return None
    found = _git(["rev-parse", "--show-toplevel"], cwd, check=False).decode().strip()
    return Path(found) if found else None


def _remote(top: Path) -> str:
    """The remote of the current branch, else origin, else the only one."""
    configured = (
        _git(["config", "--get", f"branch.{_branch(top)}.remote"], top, check=False)
        .decode()
        .strip()
    )
    remotes = _git(["remote"], top).decode().split()
    if configured in remotes:
        return configured
    if "origin" in remotes or len(remotes) == 1:
        return "origin" if "origin" in remotes else remotes[0]
    raise _fault(
        "job.code",
        "this checkout has no remote that a pod could fetch from",
        "git remote add origin URL && git push -u origin HEAD",
    )


def _newest_pushed(top: Path, remote: str) -> str:
    """The newest commit of HEAD's history that the remote has."""
    refs = remote_refs(remote, top)
    tracked = (
        _git(
            [
                "for-each-ref",
                "--format=%(objectname) %(refname:lstrip=3)",
                f"refs/remotes/{remote}",
            ],
            top,
        )
        .decode()
        .splitlines()
    )
    still_there = {
        line.split(" ")[0] for line in tracked if f"refs/heads/{line.split(' ', 1)[1]}" in refs
    }
    tips = sorted(_present(top, {*refs.values(), *still_there}))
    if tips:
        unpushed = set(_git(["rev-list", "HEAD", "--not", *tips], top).decode().split())
        newest = (
            _git(["rev-list", "--topo-order", f"--max-count={len(unpushed) + 1}", "HEAD"], top)
            .decode()
            .split()
        )
        for commit in newest:  # one more than are unpushed, so one of them is pushed if any is
            if commit not in unpushed:
                return commit
    raise _fault(
        "job.code",
        f'the remote "{remote}" has none of the commits of this checkout',
        _push(top, remote),
    )


def _present(top: Path, shas: set[str]) -> set[str]:
    """Those commits that this checkout has."""
    asked = "\n".join(f"{sha}^{{commit}}" for sha in sorted(shas)).encode()
    answer = _git(
        ["cat-file", "--batch-check=%(objectname) %(objecttype)"], top, stdin=asked
    ).decode()
    return {line.split(" ")[0] for line in answer.splitlines() if line.endswith(" commit")}


def _large_files(top: Path) -> list[str]:
    """Untracked files that alone would make the diff too large."""
    listed = (
        _git(["ls-files", "--others", "--exclude-standard", "-z"], top)
        .decode(errors="surrogateescape")
        .split("\0")
    )
    return [
        name
        for name in listed
        if name and (top / name).is_file() and (top / name).lstat().st_size > 3 * MOST_DIFF
    ]


def _refuse_large_files(top: Path) -> None:
    large = _large_files(top)
    if large:
        raise _fault(
            "job.code",
            f"untracked files are too large to travel with a Job: {', '.join(large[:3])}",
            "add them to .gitignore",
        )


def _branch(top: Path) -> str:
    return _git(["symbolic-ref", "--short", "--quiet", "HEAD"], top, check=False).decode().strip()


def _push(top: Path, remote: str) -> str:
    return f"commit, then: git push -u {remote} {_branch(top) or 'HEAD:refs/heads/NAME'}"


def _is_text(raw: bytes) -> bool:
    try:
        return "\0" not in raw.decode("utf-8")
    except UnicodeDecodeError:
        return False


def _line(arguments: Sequence[str], cwd: Path) -> str:
    return _git(arguments, cwd).decode().strip()


def _git(
    arguments: Sequence[str],
    cwd: Path,
    *,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
) -> bytes:
    done = _run(arguments, cwd, env=env, stdin=stdin)
    if check and done.returncode:
        raise _fault(
            "job.code", f"git {arguments[0]} failed: {done.stderr.decode(errors='replace').strip()}"
        )
    return done.stdout


def _run(
    arguments: Sequence[str],
    cwd: Path,
    *,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    timeout: float = 120,
) -> subprocess.CompletedProcess[bytes]:
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C.UTF-8"}
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=cwd,
            env={**os.environ, **quiet, **(env or {})},
            capture_output=True,
            timeout=timeout,
            check=False,
            input=stdin or b"",
        )
    except FileNotFoundError:
        raise _fault(
            "job.code",
            "git is not installed here, and pinning code needs it",
            "install git, or code: image",
        ) from None
    except subprocess.TimeoutExpired:
        raise _fault("job.code", f"git {arguments[0]} took more than {timeout:.0f} s") from None


def _fault(path: str, message: str, hint: str = "") -> ConfError:
    return ConfError([Fault(path=path, message=message, hint=hint)])
