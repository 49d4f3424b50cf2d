"""The handshake of a link: both sides prove that they know the cluster's secret before either uses what the other says.

Pure: packets in, packets out. Timeouts and connections are `runtime.links`' affair, which link wins `core.session`'s.

    dialler   HELLO      protocol, Python, cluster, features, life, nonce, ids of the secrets it knows
    acceptor  CHALLENGE  the same of its own, id of the secret it chose, tag over both
    dialler   PROOF      tag over both and over: epoch, seen, side, info
    acceptor  WELCOME    tag over all that and over: seen, info

Either side may answer REFUSAL instead. A tag is an HMAC-SHA256 under the shared secret with a label that names its
writer's role, so none can be reflected. A secret's id is a hash over it and the dialler's fresh nonce, so it tells
nothing about other handshakes; several secrets may be accepted, which is how they are rotated without a pause. Before
a tag is checked only fixed, small fields of the other side are looked at, to refuse it with a reason. From the secret
and everything that was said, each direction gets a key of its own for the frames' seals.

The packets are msgpack, never pickle. HELLO's first field after the kind is the protocol's version in all versions.
"""

from __future__ import annotations

import hmac
from dataclasses import field
from hashlib import blake2b, sha256
from struct import Struct
from typing import Any, Final, Literal, TypeAlias

import msgpack

from actorfw.values.data import Data
from actorfw.values.errors import ActorFwError, AuthenticationError, ProtocolError, VersionMismatchError
from actorfw.values.ids import LIFE_BYTES

__all__ = [
    "HANDSHAKE_SECONDS",
    "NONCE_BYTES",
    "PROTOCOL_VERSION",
    "Accepting",
    "Dialling",
    "Offer",
    "PacketReader",
    "Proof",
    "RefusalCode",
    "Refused",
    "Welcomed",
]

PROTOCOL_VERSION: Final = 1
NONCE_BYTES: Final = 32
HANDSHAKE_SECONDS: Final = 10.0
"""A connection that has not finished its handshake after this long is closed."""

SEALS: Final = 1
"""Feature bit: every frame carries a seal. On when either side wants it."""

_MAGIC: Final = b"afw:"
_PACKET: Final = Struct("<4sI")
_SMALL: Final = 4 * 1024  # before the other side is authenticated
_LARGE: Final = 1024 * 1024  # after: `info` may list a cluster's members
_MAX_SECRETS: Final = 8

_HELLO: Final = 1
_CHALLENGE: Final = 2
_PROOF: Final = 3
_WELCOME: Final = 4
_REFUSAL: Final = 5

Early: TypeAlias = Literal["protocol", "python", "cluster", "secret"]
RefusalCode: TypeAlias = Early | Literal["epoch", "closing", "self", "dead", "reborn", "later", "over", "left"]
"""The last five are about lives that are over for the other side: the refused side is to be reborn; the refusing side
is; they will see when they meet again; the refused life has had a successor; it has left."""


class Offer(Data):
    """Who one side is, as far as it may be told to anybody.

    Args:
        life: 16 bytes.
        cluster: name of the cluster.
        python: minor version, such as "3.11": pickles of one are not promised to load in another.
        protocol: version of what is spoken on the link.
        seal: whether this side wants its frames sealed: the link leaves the machine.
    """

    life: bytes
    cluster: str
    python: str
    protocol: int = PROTOCOL_VERSION
    seal: bool = False

    def fields(self, nonce: bytes) -> list[Any]:
        return [self.protocol, self.python, self.cluster, SEALS if self.seal else 0, self.life, nonce]


class Proof(Data):
    """What an authenticated dialler says."""

    life: bytes
    epoch: int
    seen: int
    side: list[Any]  # of `core.rebirth`
    info: dict[str, Any]


class Welcomed(Data):
    """What an authenticated acceptor says when it takes the link."""

    seen: int
    info: dict[str, Any]


class Refused(Data):
    """The other side, authenticated, does not take the link.

    Args:
        code: why, for the program.
        text: why, for people.
        epoch: with code "epoch": dial again with a higher one.
    """

    code: str
    text: str
    epoch: int = 0


class _Secrets(Data, frozen=False):
    """The secrets and what was agreed so far: kept out of every repr."""

    accepted: tuple[bytes, ...] = field(repr=False)
    chosen: bytes = field(default=b"", repr=False)
    said: bytes = field(default=b"", repr=False)

    def tag(self, label: bytes, *more: bytes) -> bytes:
        digest = hmac.new(self.chosen, b"actorfw handshake " + label + b"\0" + self.said, sha256)
        for part in more:
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.digest()

    def heard(self, packet: bytes) -> None:
        """Chain a packet into the transcript, which stays 32 bytes long."""
        self.said = sha256(self.said + packet).digest()


class PacketReader:
    """Cuts the first bytes of a connection into packets of the handshake. What follows the last is in `rest`."""

    __slots__ = ("limit", "rest")

    def __init__(self) -> None:
        self.rest = b""
        self.limit = _SMALL

    def feed(self, data: bytes) -> bytes | None:
        """Take more bytes; return the next packet if it is complete. Call again with b"" for the one after it.

        Raises:
            ProtocolError: these bytes are not a handshake of actorfw, or too many.
        """
        self.rest = rest = self.rest + data
        if not rest.startswith(_MAGIC[: len(rest)]):
            raise ProtocolError("what came is not a handshake of actorfw")
        if len(rest) < _PACKET.size:
            return None
        length = _PACKET.unpack_from(rest)[1]
        if length > self.limit:
            raise ProtocolError(f"a packet of {length} bytes in the handshake is above the limit of {self.limit}")
        end = _PACKET.size + length
        if len(rest) < end:
            return None
        self.rest = rest[end:]
        return rest[_PACKET.size : end]


def _write(fields: list[Any]) -> bytes:
    body = msgpack.packb(fields)
    return _PACKET.pack(_MAGIC, len(body)) + body


def _read(packet: bytes) -> list[Any]:
    try:
        fields: Any = msgpack.unpackb(packet)
    except Exception as error:  # msgpack raises half a dozen unrelated types
        raise ProtocolError(f"a packet of the handshake can't be decoded: {error}") from error
    if type(fields) is not list or not fields or type(fields[0]) is not int:
        raise ProtocolError("a packet of the handshake is not a list that begins with a number")
    return fields


def _shaped(fields: list[Any], what: str, *types: type) -> list[Any]:
    if len(fields) != len(types) or any(type(value) is not kind for value, kind in zip(fields, types, strict=True)):
        raise ProtocolError(f"{what} of the handshake has the wrong shape")
    return fields


def _secret_id(secret: bytes, nonce: bytes) -> bytes:
    return blake2b(nonce, digest_size=8, key=sha256(secret).digest()).digest()


def _key(secrets: _Secrets, direction: bytes) -> bytes:
    return secrets.tag(b"key " + direction)


def _mismatch(mine: Offer, protocol: object, python: object, cluster: object) -> tuple[RefusalCode, str] | None:
    """The first thing that keeps two sides apart, as (code, what the other side has and what is needed)."""
    if protocol != mine.protocol:
        return "protocol", f"protocol version {mine.protocol} is spoken here, not {str(protocol)[:20]}"
    if python != mine.python:
        return "python", f"Python {mine.python} runs here, not {str(python)[:20]}; a cluster has one minor version"
    if cluster != mine.cluster:
        return "cluster", f"this is cluster {mine.cluster!r}, not {str(cluster)[:80]!r}"
    return None


def refusal_error(code: str, text: str, where: str) -> ActorFwError:
    """The exception for a refusal that came before the other side proved itself."""
    message = f"{where} refused: {text}"
    if code in ("protocol", "python"):
        return VersionMismatchError(message)
    if code == "secret":
        return AuthenticationError(message)
    return ProtocolError(message)


class Dialling:
    """The dialler's side.

    Args:
        offer: who this side is.
        secrets: the secrets it knows, the preferred first.
        nonce: 32 fresh random bytes.
        where: whom it dials, for messages.

    Attributes:
        peer: the life that answered, once it is authenticated.
        write_key, read_key: of the frames' seals; empty when the link has none.
    """

    def __init__(self, offer: Offer, secrets: tuple[bytes, ...], nonce: bytes, where: str) -> None:
        self._offer = offer
        self._secrets = _Secrets(secrets[:_MAX_SECRETS])
        self._nonce = nonce
        self._where = where
        self._sealed = b""
        self.peer = b""
        self.sealing = offer.seal
        self.write_key = b""
        self.read_key = b""

    def hello(self) -> bytes:
        """The first packet."""
        ids = [_secret_id(secret, self._nonce) for secret in self._secrets.accepted]
        packet = _write([_HELLO, *self._offer.fields(self._nonce), ids])
        self._secrets.heard(packet[_PACKET.size :])
        return packet

    def challenged(self, packet: bytes) -> bytes:
        """Take the first answer; return the life that gave it, which is authentic.

        Raises:
            VersionMismatchError: another protocol or Python minor version.
            AuthenticationError: the other side does not know a secret of ours.
            ProtocolError: another cluster, or no handshake.
        """
        fields = _read(packet)
        if fields[0] == _REFUSAL:
            _, code, text, _, _ = _shaped(fields, "the refusal", int, str, str, int, bytes)
            raise refusal_error(code, text[:500], self._where)
        _, inner, tag = _shaped(fields, "the challenge", int, bytes, bytes)
        if fields[0] != _CHALLENGE:
            raise ProtocolError(f"{self._where} answered packet {fields[0]} where a challenge should be")
        answer = _shaped(_read(inner), "the challenge", int, str, str, int, bytes, bytes, bytes)
        protocol, python, cluster, features, life, nonce, chosen = answer
        problem = _mismatch(self._offer, protocol, python, cluster)
        if problem is not None:
            raise refusal_error(problem[0], f"it answers, but {problem[1]}", self._where)
        if len(life) != LIFE_BYTES or len(nonce) != NONCE_BYTES:
            raise ProtocolError(f"{self._where} sent a challenge with fields of the wrong length")
        for secret in self._secrets.accepted:
            if hmac.compare_digest(_secret_id(secret, self._nonce), chosen):
                self._secrets.chosen = secret
        self._secrets.heard(inner)
        if not self._secrets.chosen or not hmac.compare_digest(self._secrets.tag(b"acceptor"), tag):
            raise AuthenticationError(f"{self._where} does not know this cluster's secret")
        self.sealing = self._offer.seal or bool(features & SEALS)
        self.peer = bytes(life)
        return self.peer

    def prove(self, epoch: int, seen: int, side: list[Any], info: dict[str, Any]) -> bytes:
        """The packet that offers the link."""
        inner: bytes = msgpack.packb([epoch, seen, side, info])
        packet = _write([_PROOF, inner, self._secrets.tag(b"dialler", inner)])
        self._secrets.heard(inner)
        return packet

    def answered(self, packet: bytes) -> Welcomed | Refused:
        """Take the answer to `prove`.

        Raises:
            AuthenticationError: its tag is wrong.
            ProtocolError: it is no such answer.
        """
        fields = _read(packet)
        if fields[0] == _REFUSAL:
            return _read_refusal(fields, self._secrets, b"refusal acceptor", self._where)
        _, inner, tag = _shaped(fields, "the welcome", int, bytes, bytes)
        if fields[0] != _WELCOME:
            raise ProtocolError(f"{self._where} answered packet {fields[0]} where a welcome should be")
        if not hmac.compare_digest(self._secrets.tag(b"welcome", inner), tag):
            raise AuthenticationError(f"{self._where} does not know this cluster's secret")
        seen, info = _shaped(_read(inner), "the welcome", int, dict)
        self._secrets.heard(inner)
        if self.sealing:
            self.write_key, self.read_key = _key(self._secrets, b"to acceptor"), _key(self._secrets, b"to dialler")
        return Welcomed(seen, info)

    def refuse(self, code: RefusalCode, text: str) -> bytes:
        """A refusal by the dialler, once it knows whom it reached: that life is dead to it."""
        return _write_refusal(self._secrets, b"refusal dialler", code, text, 0)


def _write_refusal(secrets: _Secrets, label: bytes, code: str, text: str, epoch: int) -> bytes:
    tag = secrets.tag(label, code.encode(), text.encode(), b"%d" % epoch)
    return _write([_REFUSAL, code, text, epoch, tag])


def _read_refusal(fields: list[Any], secrets: _Secrets, label: bytes, where: str) -> Refused:
    _, code, text, epoch, tag = _shaped(fields, "the refusal", int, str, str, int, bytes)
    expected = secrets.tag(label, code.encode(), text.encode(), b"%d" % epoch)
    if not hmac.compare_digest(expected, tag):
        raise AuthenticationError(f"{where} refused without proof that it knows this cluster's secret")
    return Refused(code, text[:500], epoch)


class Accepting:
    """The acceptor's side.

    Args:
        offer: who this side is.
        secrets: the secrets it accepts.
        nonce: 32 fresh random bytes.
        where: where the connection comes from, for messages.
    """

    def __init__(self, offer: Offer, secrets: tuple[bytes, ...], nonce: bytes, where: str) -> None:
        self._offer = offer
        self._secrets = _Secrets(secrets)
        self._nonce = nonce
        self._where = where
        self.peer = b""
        self.sealing = offer.seal
        self.write_key = b""
        self.read_key = b""

    def greeted(self, packet: bytes) -> tuple[bytes, ActorFwError | None]:
        """Take the first packet; return the answer to send, and the reason if it is a refusal: close then.

        Raises:
            ProtocolError: no handshake: close without a word.
        """
        fields = _read(packet)
        if fields[0] != _HELLO or len(fields) < 2:
            raise ProtocolError(f"{self._where} began with packet {fields[0]} where a hello should be")
        if fields[1] == self._offer.protocol:  # else the shape of the rest is another version's
            _shaped(fields, "the hello", int, int, str, str, int, bytes, bytes, list)
            problem = _mismatch(self._offer, *fields[1:4])
        else:
            problem = _mismatch(self._offer, fields[1], None, None)
        if problem is not None:
            code, text = problem
            return self._early(code, text)
        features, life, nonce, ids = fields[4:]
        if len(life) != LIFE_BYTES or len(nonce) != NONCE_BYTES or len(ids) > _MAX_SECRETS:
            raise ProtocolError(f"{self._where} sent a hello with fields of the wrong length")
        known = {_secret_id(secret, nonce): secret for secret in self._secrets.accepted}
        self._secrets.chosen = next((known[wanted] for wanted in ids if type(wanted) is bytes and wanted in known), b"")
        if not self._secrets.chosen:
            return self._early("secret", "the secrets differ: both sides need the same ACTORFW_SECRET (or secret=)")
        self.peer = life
        self.sealing = self._offer.seal or bool(features & SEALS)
        self._secrets.heard(packet)
        inner = msgpack.packb([*self._offer.fields(self._nonce), _secret_id(self._secrets.chosen, nonce)])
        self._secrets.heard(inner)
        return _write([_CHALLENGE, inner, self._secrets.tag(b"acceptor")]), None

    def proven(self, packet: bytes) -> Proof | Refused:
        """Take the second packet.

        Raises:
            AuthenticationError: the dialler does not know the secret.
            ProtocolError: it is no such packet.
        """
        fields = _read(packet)
        if fields[0] == _REFUSAL:
            return _read_refusal(fields, self._secrets, b"refusal dialler", self._where)
        _, inner, tag = _shaped(fields, "the proof", int, bytes, bytes)
        if fields[0] != _PROOF:
            raise ProtocolError(f"{self._where} sent packet {fields[0]} where its proof should be")
        if not hmac.compare_digest(self._secrets.tag(b"dialler", inner), tag):
            raise AuthenticationError(f"{self._where} does not know this cluster's secret")
        epoch, seen, side, info = _shaped(_read(inner), "the proof", int, int, list, dict)
        self._secrets.heard(inner)
        return Proof(self.peer, epoch, seen, side, info)

    def welcome(self, seen: int, info: dict[str, Any]) -> bytes:
        """The packet that takes the link. Frames may follow it at once."""
        inner = msgpack.packb([seen, info])
        packet = _write([_WELCOME, inner, self._secrets.tag(b"welcome", inner)])
        self._secrets.heard(inner)
        if self.sealing:
            self.write_key, self.read_key = _key(self._secrets, b"to dialler"), _key(self._secrets, b"to acceptor")
        return packet

    def refuse(self, code: RefusalCode, text: str, epoch: int = 0) -> bytes:
        """The packet that refuses an authenticated dialler."""
        return _write_refusal(self._secrets, b"refusal acceptor", code, text, epoch)

    def _early(self, code: RefusalCode, text: str) -> tuple[bytes, ActorFwError]:
        error = refusal_error(code, text, f"a dial from {self._where} was")
        return _write([_REFUSAL, code, text, 0, b""]), error
