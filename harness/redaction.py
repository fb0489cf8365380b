"""Hide passwords, keys and tokens in whatever is printed or recorded: the one place that does.

A name is taken to be secret by its words (HF_TOKEN, --api-key, X-Amz-Signature), a value by its
name, by its place (user:password@host) or by its shape (hf_...). In doubt, it is hidden.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import unquote

HIDDEN = "***"

# Words of a name: in camelCase, snake_case or kebab-case.
WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")
SECRET = set(
    "apikey auth authorization authtoken bearer cookie credential credentials jwt pass passcode "
    "passphrase passwd password passwords pwd secret secrets token".split()
)
SECRET_ENDS = ("token", "password", "passwd", "secret", "apikey", "accesskey", "authkey")
# In an address's query (?user=...), more is.
SECRET_IN_QUERY = set(
    "code hmac key login loginpas loginuse otp pas pin session sessionid sid sig signature ticket "
    "user username usr".split()
)
# What a token, key or pass of these is, is no secret: time_per_token, eos_token, first_pass.
OF_TEXT = set(
    "bos cls eos first image input last mask max min new next num output pad per sep special stop "
    "total two unk".split()
)
# A name that ends so tells of a secret, but is none: TOKEN_FILE, token_type, --pass-count.
ABOUT = set(
    "bytes config count dir file folder heads id ids j len length limit ms name path s size time "
    "timeout ttl type url".split()
)

# Names with a colon after them (`password: x`) that need no second word to be secret.
SECRET_ALONE = {"credentials", "passphrase", "passwd", "password"}

# In a text, a word ends at a space, or at a quote that closes a string.
IN_WORD = r'(?:[^\s"]|"(?![,}\]:\s]|$))'
SCHEME = r"(?<![a-zA-Z0-9+.-])([a-zA-Z][a-zA-Z0-9+.-]*://)"
USER_IN_ADDRESS = re.compile(rf"{SCHEME}({IN_WORD}{{0,1000}})@")
ONLY_AN_ADDRESS = re.compile(rf"^\s*{SCHEME}(?=[^@]*:).*@(?=[^\s@]+\s*$)")
USER_AT_HOST = re.compile(
    r"(?:(?<![^\s\"'=(\[,])|(?<=(?<!:)//))(?!(?:mailto|sips?|xmpp|[a-zA-Z][a-zA-Z0-9+.-]*:/):?)"
    rf"[^\s\"'=/:@]+:{IN_WORD}{{1,1000}}@(?=[\w\[])(?!sha\d+:)"
)
SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_(?:(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{8,}|[a-z]{14,})|"
    r"sk-(?=[\w-]*\d)[\w-]{16,}|gh[a-z]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|"
    r"(?:glpat|nvapi)-[\w-]{16,}|AKIA[0-9A-Z]{12,}|eyJ[\w-]{8,}\.[\w-]+\.[\w-]*)(?![A-Za-z0-9])"
    r"|(?<=\bBearer )(?=\S*[\d_.-])[^\s\"']{8,}"
)
# A name and what parts it from its value; spaces and '", "' do so only after an option.
NAME = re.compile(
    r"(?<![\w.])(?P<name>-{0,2}[A-Za-z_%][\w.%-]*)(?![\w.%-])"
    r"(?P<by> = |=(?!=)|\\?[\"']\s*[:=]\s*|:[ \t]*(?!//)|[\"']\s*,\s*(?=[\"'])|[ \t]+)"
)
VALUE = re.compile(rf'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|\\".*?\\"|\[[^\]]*\]|{IN_WORD}+')
VALUE_IN_JSON = re.compile(VALUE.pattern.replace(f"{IN_WORD}+", r"[^\s,}\]]+"))
VALUE_IN_QUERY = re.compile(r"[^\s&\"]*(?:&(?![^&=\s]+=)[^\s&\"]*)*(?<![\'),.:;\]}>])")
VALUE_OF_HEADER = re.compile(r"Digest [^\n]*|[^\"'\n]+", re.IGNORECASE)
USER_OPTIONS = ("-u", "-A", "-P", "--user", "--proxy-user")  # of curl and ab: user:password


@lru_cache(maxsize=1000)
def is_secret(name: str, in_query: bool = False) -> bool:
    """Whether what has this name is to be hidden."""
    words = [word.lower() for word in WORD.findall(unquote(name))]
    if not words:
        return False
    if in_query and (SECRET_IN_QUERY & {*words} or words[-1].endswith("key")):
        return True
    of_text = bool(OF_TEXT & {*words})
    if words[-1] == "key" or words[-2:] == ["key", "id"]:
        return not of_text
    found = {word for word in words if word in SECRET or word.endswith(SECRET_ENDS)}
    if of_text:
        found -= {"token", "pass"}
    return bool(found) and words[-1] not in ABOUT


def redact(text: str) -> str:
    """`text` with *** for each secret: scheme://***@host/path?token=***, --api-key ***."""
    text = ONLY_AN_ADDRESS.sub(rf"\1{HIDDEN}@", text)
    text = USER_IN_ADDRESS.sub(_without_user, text)
    text = USER_AT_HOST.sub(f"{HIDDEN}@", text)
    parts, at = [], 0
    while found := NAME.search(text, at):
        parts.append(text[at : found.end()])
        at = found.end()
        if value := _secret_value(found):
            parts.append(re.sub(r"(?s)^(\\?[\"']|).*$", rf"\1{HIDDEN}\1", value[0]))
            at = value.end()
    return SHAPES.sub(HIDDEN, "".join(parts) + text[at:])


def redact_command(words: Sequence[str]) -> list[str]:
    """The words of a command line, each with its secrets hidden."""
    shown, before = [], ""
    for word in words:
        name, equals, value = word.partition("=")
        is_value = re.fullmatch(r"--?[\w-]+", before) and not word.startswith("--")
        if is_value and (is_secret(before) or (before in USER_OPTIONS and ":" in word)):
            shown.append(HIDDEN)
        elif equals and re.fullmatch(r"-{0,2}[\w.-]+", name):
            shown.append(f"{name}={HIDDEN if is_secret(name) else redact_command([value])[0]}")
        else:
            shown.append(redact(word))
        before = word
    return shown


def _without_user(found: re.Match) -> str:
    """An address without the user's part, which reaches to the last @.

    A password may hold @, /, ? and #; but without a colon, an @ behind the host is of the path.
    """
    scheme, user = found.groups()
    host = re.split("[/?#]", user, maxsplit=1)[0]
    if ":" in user or host == user:
        return f"{scheme}{HIDDEN}@"
    if "@" in host:
        return f"{scheme}{HIDDEN}@{host.rpartition('@')[2]}{user[len(host) :]}@"
    return found[0]


def _secret_value(found: re.Match) -> re.Match | None:
    """What follows a name, where it is to be hidden."""
    name, by, text, at = found["name"], found["by"], found.string, found.end()
    before = text[max(0, found.start() - 1) : found.start()]
    in_query = by == "=" and before.endswith(("?", "&", ";", "#"))
    if not is_secret(name, in_query):
        return None
    if in_query:
        return VALUE_IN_QUERY.match(text, at)
    if name.lower().endswith(("authorization", "cookie")) and by.strip() in ("=", ":"):
        return VALUE_OF_HEADER.match(text, at)
    value = VALUE.match(text, at)
    if "=" in by:
        return value
    if by.strip().endswith(":") and by[0] != ":":
        return VALUE_IN_JSON.match(text, at)
    if name.startswith("-"):
        is_option = by[0] != ":" and value and not value[0].startswith("--")
        return value if is_option else None
    if by[0] != ":" or "." in name or before.endswith(("/", "\\")):
        return None
    alone = len(WORD.findall(name)) == 1 and name.lower() not in SECRET_ALONE
    return None if alone and not (value and len(value[0]) >= 16) else value
