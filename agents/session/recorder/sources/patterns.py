"""Windows as they are seen, and which of them keys must not be recorded of. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

PROGRAMS = (
    r"pinentry", r"ask-?pass", r"gcr-prompter", r"polkit", r"policykit", r"kde-?su", r"gksu",
    r"lxqt-sudo", r"kwallet", r"keepass", r"bitwarden", r"1password", r"seahorse", r"keyring",
    r"lock", r"screen-?saver", r"greeter", r"^gdm", r"sddm", r"lightdm", r"^xdm$", r"login",
    r"logon", r"credential",
)  # fmt: skip
TITLES = (
    r"pass-?\s?(word|phrase|code|wort)", r"kennwort", r"mot de passe", r"contrase", r"senha",
    r"wachtwoord", r"parola", r"пароль", r"密码", r"パスワード", r"log-?\s?(in|on)\b",
    r"sign-?\s?(in|on)\b", r"anmeld", r"connexion", r"iniciar sesi", r"authenti", r"unlock",
    r"entsperr", r"credential", r"\bpin\b", r"\bsudo\b", r"\bsecret", r"two-factor", r"\botp\b",
)  # fmt: skip
Via = Literal["manager", "focus", "pointer", "none"]


@dataclass(frozen=True, slots=True)
class Seen:
    """A window as it stands; texts are fit to be recorded."""

    title: str = ""
    program: str = ""
    instance: str = ""
    via: Via = "none"


@dataclass(frozen=True, slots=True)
class Glance:
    """used: the window in use. others: further ones that keys may go to. sure: neither
    vanished while it was looked at."""

    used: Seen
    others: tuple[Seen, ...] = ()
    sure: bool = True


class Patterns:
    """Which windows are protected: regular expressions that are looked for in a window's two
    names and in its title, in any case. Raises re.error."""

    def __init__(self, programs: Iterable[str] = PROGRAMS, titles: Iterable[str] = TITLES) -> None:
        self._programs = [re.compile(one, re.IGNORECASE) for one in programs]
        self._titles = [re.compile(one, re.IGNORECASE) for one in titles]

    def cover(self, seen: Seen) -> bool:
        """Whether keys that go to this window are protected."""
        names = (seen.program, seen.instance)
        return any(one.search(name) for one in self._programs for name in names) or any(
            one.search(seen.title) for one in self._titles
        )
