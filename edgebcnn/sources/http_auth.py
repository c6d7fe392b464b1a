"""Answers the authentication challenges of an HTTP camera: Basic and Digest, whichever is the strongest on offer.

A server may send several challenges, in one header or in several, in any order; the first that happens to stand there
is often one that nobody but a domain's own machines can answer (Negotiate, NTLM). Users and passwords are UTF-8.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgebcnn.errors import CameraError

_PART = re.compile(r'\s*((?:"(?:[^"\\]|\\.)*"|[^",])+)\s*(?:,|$)')
_PARAMETER = re.compile(r'([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s"]*))\s*$', re.DOTALL)
_BEGINNING = re.compile(r"([\w!#$%&'*+.^`|~-]+)(?:\s+(.*))?$", re.DOTALL)
_MAX_HEADER = 4096

Hash = Callable[[str], str]


def _hash(name: str) -> Hash:
    return lambda text: hashlib.new(name, text.encode(), usedforsecurity=False).hexdigest()


_HASHES: dict[str, Hash] = {"SHA-256": _hash("sha256"), "MD5": _hash("md5")}
"""By their names in a challenge, the strongest first."""


@dataclass(frozen=True)
class Challenge:
    """One way in that a server offers."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


def challenges_of(headers: Sequence[str]) -> list[Challenge]:
    """The challenges of all `WWW-Authenticate` headers of a response."""
    found: list[Challenge] = []
    for header in headers:
        for part in _PART.findall(header[:_MAX_HEADER]):
            parameter = _PARAMETER.match(part)
            if parameter is None:
                beginning = _BEGINNING.match(part.strip())
                if beginning is None:
                    continue
                found.append(Challenge(beginning[1].lower()))
                parameter = _PARAMETER.match(beginning[2] or "")
            if parameter is not None and found:
                quoted = re.sub(r"\\(.)", r"\1", parameter[2]) if parameter[2] is not None else parameter[3]
                found[-1].parameters[parameter[1].lower()] = quoted
    return found


def authorization(headers: Sequence[str], *, user: str, password: str, uri: str) -> str:
    """The `Authorization` header of a GET request for `uri`, for the strongest challenge that can be answered.

    Raises:
        CameraError: there is none; the message goes on after the source's name.
    """
    offered = challenges_of(headers)
    for name, hashed in _HASHES.items():
        for each in offered:
            algorithm = each.parameters.get("algorithm", "MD5").upper()
            if each.scheme == "digest" and algorithm.removesuffix("-SESS") == name:
                return _digest(each.parameters, hashed, algorithm, user=user, password=password, uri=uri)
    if any(each.scheme == "basic" for each in offered):
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    schemes = ", ".join(" ".join(filter(None, (each.scheme, each.parameters.get("algorithm", "")))) for each in offered)
    raise CameraError(
        f"cannot be opened: it asks for authentication by {schemes or 'a method that it does not name'}, and edgebcnn "
        "knows Basic and Digest (MD5, SHA-256); choose one of these in the camera's settings"
    )


def _digest(challenge: dict[str, str], hashed: Hash, algorithm: str, *, user: str, password: str, uri: str) -> str:
    """RFC 7616, section 3.4."""
    realm, nonce = challenge.get("realm", ""), challenge.get("nonce", "")
    count, client_nonce = "00000001", secrets.token_hex(8)
    qops = {each.strip().lower() for each in challenge.get("qop", "").split(",")} - {""}
    qop = "auth" if "auth" in qops else "auth-int" if "auth-int" in qops else ""
    first = hashed(f"{user}:{realm}:{password}")
    if algorithm.endswith("-SESS"):
        first = hashed(f"{first}:{nonce}:{client_nonce}")
    second = hashed(f"GET:{uri}:{hashed('')}" if qop == "auth-int" else f"GET:{uri}")
    middle = f"{nonce}:{count}:{client_nonce}:{qop}" if qop else nonce
    quoted = {
        "username": user,
        "realm": realm,
        "nonce": nonce,
        "uri": uri,
        "response": hashed(f"{first}:{middle}:{second}"),
    }
    if "opaque" in challenge:
        quoted["opaque"] = challenge["opaque"]
    if qop:
        quoted["cnonce"] = client_nonce
    fields = [f'{name}="{_escaped(value)}"' for name, value in quoted.items()]
    fields += [f"algorithm={algorithm}"] if "algorithm" in challenge else []
    fields += [f"qop={qop}", f"nc={count}"] if qop else []
    return "Digest " + ", ".join(fields)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')
