"""Whether a shell script idles: ends in `sleep`, or waits for ever. Read as words, never run."""

from __future__ import annotations

import re
import shlex

_FOREVER = {"true", ":", "[ 1 ]", "[ true ]", "[[ true ]]", "[[ 1 ]]", "((1))", "(( 1 ))", "test 1"}
_SEPARATORS = {";", "&&", "||", "|", "&", "\n", ";;"}
# what may stand before a command
_WORDS = {"do", "then", "else", "{", "(", "!", "exec", "nohup", "command", "time", "env", "sudo"}
_SETS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*")
_INTERPRETERS = re.compile(r"(.*/)?(ba|da|z|k)?sh")


def idles(script: str) -> str:
    """What the script idles with ("sleep infinity", "a loop for ever around sleep 60"); "" when it does not."""
    commands = _commands(script)
    for command in commands:
        inner = inner_script(command)
        if endless := _endless(command) or (
            "" if inner in (script, shlex.join(command)) else idles(inner)
        ):
            return endless
    loop = _loop(commands)
    if loop:
        return loop
    work = [
        command
        for command in commands
        if command[0] not in ("done", "fi", "esac", "}", ")", "wait", "exit")
    ]
    last = work[-1] if work else []
    return (
        f'"{" ".join(last)}" at its end'
        if last and _is(last[0], "sleep") and "done" not in commands[-1]
        else ""
    )


def inner_script(words: list[str]) -> str:
    """The script of `sh -c SCRIPT`, or the command itself as one line."""
    if words and _INTERPRETERS.fullmatch(words[0]):
        for at, word in enumerate(words[1:], 1):
            if re.fullmatch(r"-[a-z]*c", word):
                return words[at + 1] if at + 1 < len(words) else ""
    return shlex.join(words)


def _commands(script: str) -> list[list[str]]:
    """The script's simple commands, as words; what cannot be read as shell is split at spaces."""
    found: list[list[str]] = [[]]
    for word in _words(script):
        if word in _SEPARATORS:
            found.append([])
        else:
            # a subshell's
            inner = (
                word
                if word.startswith("((") or word.endswith("))")
                else word.lstrip("(").rstrip(")")
            )
            found[-1] += [inner] if inner else []
    stripped = []
    for command in found:
        while command and (command[0] in _WORDS or _SETS.fullmatch(command[0])):
            command = command[1:]
        if command:
            stripped.append(command)
    return stripped


def _words(script: str) -> list[str]:
    lexer = shlex.shlex(script.replace("\\\n", " "), posix=True, punctuation_chars=";&|\n")
    lexer.whitespace = " \t\r"
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:
        words = re.split(r"[ \t]+|(\n|;)", script)
    split = []
    for word in words:
        if word and set(word) <= set(";&|\n"):
            split.append("\n" if "\n" in word else word)
        elif word:
            split.append(word)
    return split


def _endless(command: list[str]) -> str:
    """A command that by itself never ends."""
    name, arguments = command[0], command[1:]
    if _is(name, "sleep") and any(
        re.fullmatch(r"inf(inity)?|[0-9.]+d|[0-9]{6,}s?", word) for word in arguments
    ):
        return f'"{" ".join(command)}"'
    follows = any(re.fullmatch(r"-[a-zA-Z]*[fF].*|--follow.*|--retry", word) for word in arguments)
    if _is(name, "tail") and follows and "/dev/null" in arguments:
        return f'"{" ".join(command)}"'
    return ""


def _loop(commands: list[list[str]]) -> str:
    """`while true; do ... sleep ...; done` without a way out; `tail -f` as the last thing done."""
    for at, command in enumerate(commands):
        condition = " ".join(command[1:])
        forever = (
            command[0] == "while"
            and (condition in _FOREVER or _is((command[1:] or [""])[0], "sleep"))
        ) or (command[0] == "until" and condition == "false")
        forever = forever or bool(
            re.match(r"for ?\(\(;;\)\)|for$", command[0]) and "((" in " ".join(command[:2])
        )
        if forever:
            body = _body(commands[at + 1 :])
            leaves = any(each[0] in ("break", "exit", "return") for each in body)
            sleeps = next(
                (each for each in [command[1:] or [""], *body] if _is(each[0], "sleep")), None
            )
            if sleeps and not leaves:
                return f'a loop for ever around "{" ".join(sleeps)}"'
    last = commands[-1] if commands else [""]
    if _is(last[0], "tail") and any(
        re.fullmatch(r"-[a-zA-Z]*[fF].*|--follow.*", word) for word in last[1:]
    ):
        return f'"{" ".join(last)}" at its end'
    return ""


def _body(commands: list[list[str]]) -> list[list[str]]:
    """Up to the `done` of this loop."""
    depth, body = 1, []
    for command in commands:
        depth += (command[0] in ("while", "until", "for")) - (command[0] == "done")
        if depth == 0:
            break
        body.append(command)
    return body


def _is(word: str, program: str) -> bool:
    return word == program or word.endswith(f"/{program}")
