"""The handshake of a link: both sides prove that they know the cluster's secret before either uses what the other says.

Pure: packets in, packets out. Timeouts and connections are `runtime.links`' affair, which link wins `core.session`'s.

    dialler   HELLO      protocol, Python, cluster, features, life, nonce, ids of the secrets it knows, mark, address
    acceptor  CHALLENGE  the same of its own, id of the secret it chose, tag over both
    dialler   PROOF      tag over both and over: epoch, seen, side, info
    acceptor  WELCOME    tag over all that and over: seen, info

Either side may answer REFUSAL instead. A tag is an HMAC-SHA256 under the shared secret with a label that names its
writer's role, so none can be reflected. A secret's id is a hash over it and the dialler's fresh nonce, so it tells
nothing about other handshakes; several secrets may be accepted, which is how they are rotated without a pause. Before
a tag is checked only fixed, small fields of the other side are looked at, to refuse it with a reason. From the secret
and everything that was said, each direction gets a key of its own for the frames' seals.

Who passes everything on unchanged can't be noticed by that alone, and where frames have no seal it could then add its
own. Hence the *mark*: what both ends of one connection see alike, and the two connections of somebody in between do
not. The addresses of a connection that stays on this machine are one: if the two sides see different ones, their frames
are sealed. So is what a TLS connection has agreed on: if that differs, the dialler is refused.

HELLO also says which address was dialled; a bit of the answer says whether that is the acceptor's own (HERE). Only then
does another life than expected prove anything: else a connection led elsewhere would be enough to bury somebody.

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
from actorfw.values.errors import (
    ActorFwError,
    AuthenticationError,
    PeerUnreachableError,
    ProtocolError,
    VersionMismatchError,
)
from actorfw.values.ids import LIFE_BYTES

__all__ = [
    "HANDSHAKE_SECONDS",
    "HELLO_BYTES",
    "HELLO_SECONDS",
    "INFO_BYTES",
    "NEEDS_TLS",
    "NONCE_BYTES",
    "NO_TLS",
    "PROOF_BYTES",
    "PROTOCOL_VERSION",
    "Accepting",
    "Dialling",
    "Offer",
    "PacketReader",
    "PacketTooLargeError",
    "Proof",
    "RefusalCode",
    "Refused",
    "Secret",
    "SpeaksTlsError",
    "Welcomed",
    "plain_refusal",
]

PROTOCOL_VERSION: Final = 1
NONCE_BYTES: Final = 32
HANDSHAKE_SECONDS: Final = 10.0
"""A connection that has not finished its handshake after this long is closed."""
HELLO_SECONDS: Final = 3.0
"""And one whose first packet is not complete after this long. Who belongs here writes it as soon as it can."""
HELLO_BYTES: Final = 4 * 1024
"""Of a packet, while the other side has shown nothing at all."""
PROOF_BYTES: Final = 64 * 1024
"""Of a dialler's proof: what it says of itself. Its hello may have been overheard and be repeated by a stranger."""
INFO_BYTES: Final = 1024 * 1024
"""Of an acceptor's welcome, who is authenticated then."""

SEALS: Final = 1
"""Feature bit: every frame carries a seal. On when either side wants it."""
TLS: Final = 2
"""Feature bit: for this side the connection is TLS. The acceptor refuses a dialler who says otherwise than itself."""
HERE: Final = 4
"""Feature bit of the challenge: the address that was dialled is the acceptor's own."""

_MAGIC: Final = b"afw:"
_PACKET: Final = Struct("<4sI")
_MAX_SECRETS: Final = 8

NEEDS_TLS: Final = (
    "links are TLS here: give tls= (or ACTORFW_TLS_CERTIFICATE, ACTORFW_TLS_KEY and ACTORFW_TLS_AUTHORITY), with a"
    " certificate of the same authority"
)
NO_TLS: Final = "links are not TLS here: leave tls= out, or give it to every node of the cluster"
_CUT_TLS: Final = "the TLS connection ends between the two nodes: somebody reads along"

_HELLO: Final = 1
_CHALLENGE: Final = 2
_PROOF: Final = 3
_WELCOME: Final = 4
_REFUSAL: Final = 5

Early: TypeAlias = Literal["protocol", "python", "cluster", "secret", "tls", "full"]
RefusalCode: TypeAlias = Early | Literal["epoch", "closing", "self", "dead", "reborn", "later", "over", "left"]
"""The last five are about lives that are over for the other side: the refused side is to be reborn; the refusing side
is; they will see when they meet again; the refused life has had a successor; it has left."""


class Secret(bytes):
    """A secret, or a key made of one: bytes that show in no repr, log or traceback, and that can't be pickled."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<secret>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError("a secret can't be pickled: it stays in its process")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self


class SpeaksTlsError(ProtocolError):
    """What came is the beginning of TLS, which is not spoken here."""


class Offer(Data):
    """Who one side is, as far as it may be told to anybody, and what it sees of the connection.

    Args:
        life: 16 bytes.
        cluster: name of the cluster.
        python: minor version, such as "3.11": pickles of one are not promised to load in another.
        protocol: version of what is spoken on the link.
        seal: whether this side wants its frames sealed: the link leaves the machine.
        tls: whether the connection is TLS, as this side sees it.
        mark: what only the two ends of this very connection see alike; b"" if there is nothing.
        address: which the dialler has dialled; the acceptor's own.
    """

    life: bytes
    cluster: str
    python: str
    protocol: int = PROTOCOL_VERSION
    seal: bool = False
    tls: bool = False
    mark: bytes = b""
    address: str = ""

    def fields(self, nonce: bytes, features: int = 0) -> list[Any]:
        features |= (SEALS if self.seal else 0) | (TLS if self.tls else 0)
        return [self.protocol, self.python, self.cluster, features, self.life, nonce]


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

    def choose(self, nonce: bytes, ids: list[Any]) -> bool:
        """Take the first of the secrets that these ids, made with this nonce, stand for; False if there is none.

        Nothing here raises, so that no traceback holds what is looked at.
        """
        known = {_secret_id(secret, nonce): secret for secret in self.accepted}
        self.chosen = next((known[wanted] for wanted in ids if type(wanted) is bytes and wanted in known), b"")
        return bool(self.chosen)

    def heard(self, packet: bytes) -> None:
        """Chain a packet into the transcript, which stays 32 bytes long."""
        self.said = sha256(self.said + packet).digest()


class PacketTooLargeError(ProtocolError):
    """A packet of the handshake is above its limit.

    Args:
        size: bytes that it says to have.
        limit: bytes that it may have.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"a packet of {size} bytes in the handshake is above the limit of {limit}")
        self.limit = limit


class PacketReader:
    """Cuts the first bytes of a connection into packets of the handshake. What follows the last is in `rest`."""

    __slots__ = ("limit", "rest")

    def __init__(self) -> None:
        self.rest = b""
        self.limit = HELLO_BYTES

    def feed(self, data: bytes) -> bytes | None:
        """Take more bytes; return the next packet if it is complete. Call again with b"" for the one after it.

        Raises:
            ProtocolError: these bytes are not a handshake of actorfw, or too many.
        """
        self.rest = rest = self.rest + data
        if not rest.startswith(_MAGIC[: len(rest)]):
            if rest.startswith(b"\x16\x03"):
                raise SpeaksTlsError("it speaks TLS, which this node was started without (tls=)")
            raise ProtocolError("what came is not a handshake of actorfw")
        if len(rest) < _PACKET.size:
            return None
        length = _PACKET.unpack_from(rest)[1]
        if length > self.limit:
            raise PacketTooLargeError(length, self.limit)
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


def _key(secrets: _Secrets, direction: bytes) -> Secret:
    return Secret(secrets.tag(b"key " + direction))


def _plain(text: object, limit: int) -> str:
    """What an unknown side says, fit for a terminal and a log."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text)[:limit])


def plain_refusal(code: Early, text: str) -> bytes:
    """The packet that refuses whoever has not proven itself, nor been proven anything."""
    return _write([_REFUSAL, code, text, 0, b""])


def _mismatch(mine: Offer, protocol: object, python: object, cluster: object) -> tuple[Early, str] | None:
    """The first thing that keeps two sides apart, as (code, what the other side has and what is needed)."""
    if protocol != mine.protocol:
        return "protocol", f"protocol version {mine.protocol} is spoken here, not {_plain(protocol, 20)}"
    if python != mine.python:
        return "python", f"Python {mine.python} runs here, not {_plain(python, 20)}; a cluster has one minor version"
    if cluster != mine.cluster:
        return "cluster", f"this is cluster {mine.cluster!r}, not {str(cluster)[:80]!r}"
    return None


def refusal_error(code: str, text: str, where: str) -> ActorFwError:
    """The exception for a refusal that came before the other side proved itself."""
    message = f"{where} refused: {_plain(text, 500)}"
    if code in ("protocol", "python"):
        return VersionMismatchError(message)
    if code in ("secret", "tls"):
        return AuthenticationError(message)
    if code == "full":
        return PeerUnreachableError(message)
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
        here: whether the address that was dialled is its own.
        write_key, read_key: of the frames' seals; empty when the link has none.
    """

    def __init__(self, offer: Offer, secrets: tuple[bytes, ...], nonce: bytes, where: str) -> None:
        self._offer = offer
        self._secrets = _Secrets(secrets[:_MAX_SECRETS])
        self._nonce = nonce
        self._where = where
        self._sealed = b""
        self.peer = b""
        self.here = False
        self.sealing = offer.seal
        self.write_key = b""
        self.read_key = b""

    def hello(self) -> bytes:
        """The first packet."""
        ids = [_secret_id(secret, self._nonce) for secret in self._secrets.accepted]
        offer = self._offer
        packet = _write([_HELLO, *offer.fields(self._nonce), ids, offer.mark, offer.address])
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
            raise refusal_error(code, text, self._where)
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
        known = self._secrets.choose(self._nonce, [chosen])
        self._secrets.heard(inner)
        if not known or not hmac.compare_digest(self._secrets.tag(b"acceptor"), tag):
            raise AuthenticationError(f"{self._where} does not know this cluster's secret")
        self.here = bool(features & HERE)
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
            _shaped(fields, "the hello", int, int, str, str, int, bytes, bytes, list, bytes, str)
            problem = _mismatch(self._offer, *fields[1:4])
        else:
            problem = _mismatch(self._offer, fields[1], None, None)
        if problem is not None:
            code, text = problem
            return self.turn_away(code, text)
        features, life, nonce, ids, mark, address = fields[4:]
        if len(life) != LIFE_BYTES or len(nonce) != NONCE_BYTES or len(ids) > _MAX_SECRETS:
            raise ProtocolError(f"{self._where} sent a hello with fields of the wrong length")
        offer = self._offer
        same = hmac.compare_digest(mark, offer.mark)
        if bool(features & TLS) != offer.tls:
            return self.turn_away("tls", NEEDS_TLS if offer.tls else NO_TLS)
        if offer.tls and not same:
            return self.turn_away("tls", _CUT_TLS)
        if not self._secrets.choose(nonce, ids):
            return self.turn_away("secret", "the secrets differ: both sides need the same ACTORFW_SECRET (or secret=)")
        self.peer = life
        seals = 0 if same else SEALS
        self.sealing = offer.seal or bool((features | seals) & SEALS)
        self._secrets.heard(packet)
        here = HERE if address and address == offer.address else 0
        inner = msgpack.packb([*offer.fields(self._nonce, seals | here), _secret_id(self._secrets.chosen, nonce)])
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

    def turn_away(self, code: Early, text: str) -> tuple[bytes, ActorFwError]:
        """The packet that refuses a dialler who has proven nothing yet, and what to say of it here."""
        return plain_refusal(code, text), refusal_error(code, text, f"a dial from {self._where} was")
