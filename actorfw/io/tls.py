"""TLS as links want it: mutual, version 1.3, certificates of the cluster's own authority, errors that say what to do.

`TlsTransport` stands between a connection and its protocol, on any loop. The protocol has it from the first moment on,
so that whoever counts connections and sets deadlines counts these too; what it may say, it may say `when_secured`.
Names in certificates are not compared: nodes are dialled by address, and who they are is proven by the cluster's secret
inside. The proof is bound to this very TLS connection by its `mark`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Any, Final, cast

from actorfw.core.handshake import NEEDS_TLS, NO_TLS, plain_refusal
from actorfw.io.secrets import exposed_to
from actorfw.values.errors import AuthenticationError, UsageError
from actorfw.values.tls import TLS

__all__ = ["Certificates", "TlsTransport"]

logger = logging.getLogger("actorfw.peers")

_RECORD: Final = 16 * 1024  # what TLS hands out at a time
_PLAIN: Final = b"afw:"
_SAME: Final = "all nodes of a cluster need certificates of the same authority"

Factory = Callable[[], asyncio.BaseProtocol]


class Certificates:
    """The certificate of a node and its authority's, read anew when the files change.

    Raises:
        UsageError: a file can't be read, or they don't fit together.
    """

    def __init__(self, tls: TLS) -> None:
        self._tls = tls
        self._stamp = self._look()
        self._contexts = self._load()

    def warn(self) -> None:
        """Say so if others can read the key."""
        readers = exposed_to(self._tls.key)
        if readers:
            logger.warning("the key %s can be read by %s: chmod 600 it", self._tls.key, readers)

    def dialling(self, factory: Factory, address: str) -> Factory:
        """Makes TLS of a connection to a node at this address."""
        return lambda: TlsTransport(factory, self._fresh()[0], f"the node at {address}", server_side=False)

    def accepting(self, factory: Factory) -> Factory:
        """Makes TLS of a connection that comes in."""
        return lambda: TlsTransport(factory, self._fresh()[1], "it", server_side=True)

    def _fresh(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        stamp = self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._contexts = self._load()
                logger.info("the certificate %s was renewed", self._tls.certificate)
            except UsageError as error:
                # Perhaps one of the files is new and the other is about to be: that will be seen as well.
                logger.warning("the certificates as they were stay in use: %s", error)
        return self._contexts

    def _look(self) -> list[tuple[int, int, int]]:
        found: list[tuple[int, int, int]] = []
        for path in (self._tls.certificate, self._tls.key, self._tls.authority):
            try:
                status = os.stat(path)
                found.append((status.st_ino, status.st_size, status.st_mtime_ns))
            except OSError:
                found.append((0, 0, 0))  # what is wrong is said when it is read
        return found

    def _load(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        return self._context(ssl.PROTOCOL_TLS_CLIENT), self._context(ssl.PROTOCOL_TLS_SERVER)

    def _context(self, side: Any) -> ssl.SSLContext:
        tls = self._tls
        context = ssl.SSLContext(side)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the authority may be an intermediate one
        if side == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0  # no session is ever resumed: each connection shows its certificates
        path = tls.authority
        try:
            context.load_verify_locations(path)
            for path in (tls.certificate, tls.key):
                open(path, "rb").close()  # OpenSSL would not say which it is that can't be read
            path = tls.certificate
            context.load_cert_chain(path, tls.key, _no_passphrase)
        except ssl.SSLError as error:
            raise UsageError(f"TLS can't be used with {_files(tls)}: {_reason(error)}") from error
        except OSError as error:
            raise UsageError(f"the TLS file {path} can't be read: {error.strerror or error}") from error
        return context


def _no_passphrase() -> str:
    raise UsageError("the TLS key is encrypted; a node can't ask for its passphrase: give it a key without one")


def _files(tls: TLS) -> str:
    return f"certificate {tls.certificate}, key {tls.key} and authority {tls.authority}"


def _reason(error: ssl.SSLError) -> str:
    reason = str(error.reason or "")
    if reason == "KEY_VALUES_MISMATCH":
        return "the key is not that of the certificate"
    if reason in ("", "NO_CERTIFICATE_OR_CRL_FOUND", "NO_START_LINE", "PEM_LIB", "PEM lib"):
        return "one of them is not in PEM, or not what it should be"
    return reason.lower().replace("_", " ")


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """One end of a TLS connection: a transport to the protocol above, a protocol to the transport below.

    Args:
        factory: makes the protocol above.
        context: of this side.
        whom: who is at the other end, for messages.
        server_side: whether it has dialled.

    Attributes:
        mark: what only the two ends of this TLS connection know alike, once it is secured.
    """

    def __init__(self, factory: Factory, context: ssl.SSLContext, whom: str, *, server_side: bool) -> None:
        super().__init__()
        self.mark = b""
        self._factory = factory
        self._whom = whom
        self._server_side = server_side
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._then: Callable[[], object] | None = None
        self._secured = False
        self._closing = False
        self._first = b""  # that came, while nothing was understood yet
        self._error: Exception | None = None
        self._below: asyncio.Transport
        self._above: asyncio.Protocol

    def __repr__(self) -> str:
        return f"<TlsTransport {'secured' if self._secured else 'not secured yet'} over {self._below!r}>"

    def when_secured(self, then: Callable[[], object]) -> None:
        """Call `then` when both sides have shown their certificates and been believed; never if that fails."""
        self._then = then

    # -- from below ----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._below = cast("asyncio.Transport", transport)
        self._above = cast("asyncio.Protocol", self._factory())
        self._above.connection_made(self)
        if not self._below.is_closing():
            self._shake()

    def data_received(self, data: bytes) -> None:
        """Bytes of TLS came."""
        if self._error is not None or self._closing:
            return
        self._incoming.write(data)
        if not self._secured:
            self._first = (self._first + data)[: len(_PLAIN)]
            self._shake()
            if not self._secured:
                return
        self._read()

    def _shake(self) -> None:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._flush()  # the other side is told why
            if self._first == _PLAIN:
                if self._server_side:
                    self._below.write(plain_refusal("tls", NEEDS_TLS))
                text = "it dials without TLS" if self._server_side else f"{self._whom} refused: {NO_TLS}"
                self._failed(AuthenticationError(text), error)
            else:
                self._failed(AuthenticationError(self._why(error)), error)
            return
        self._flush()
        self._secured = True
        # The dialler's Finished message: under TLS 1.3 a MAC, by a key that only the two ends of this connection have,
        # of all that they said, both certificates included.
        finished = self._object.get_channel_binding("tls-unique") or b""
        self.mark = sha256(b"actorfw tls " + finished).digest()
        if self._then is not None:
            self._then()

    def _read(self) -> None:
        parts: list[bytes] = []
        error: Exception | None = None
        ended = False
        try:
            while True:
                part = self._object.read(_RECORD)
                if not part:
                    ended = True
                    break
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            ended = True
        except ssl.SSLError as broken:
            error = AuthenticationError(self._why(broken))
            error.__cause__ = broken
        if self._outgoing.pending:
            self._flush()
        if parts:
            self._above.data_received(parts[0] if len(parts) == 1 else b"".join(parts))
        if error is not None and not self._closing:
            self._error = error
            self._below.abort()
        elif ended:
            self.close()

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            self._below.write(data)

    def _failed(self, error: Exception, cause: Exception) -> None:
        error.__cause__ = cause
        self._error = error
        self._below.close()  # not at once: what was written says why

    def _why(self, error: ssl.SSLError) -> str:
        reason = str(error.reason or error)
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"{self._whom} has a certificate that does not hold here: {error.verify_message}; {_SAME}"
        if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
            return f"{self._whom} shows no certificate; {_SAME}"
        if "PROTOCOL_VERSION" in reason or "UNSUPPORTED_PROTOCOL" in reason:
            return f"{self._whom} speaks an older TLS than 1.3"
        if "ALERT" in reason:
            words = reason.partition("ALERT_")[2].lower().replace("_", " ")
            return f"{self._whom} does not take the certificate of this node: {words}; {_SAME}"
        if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"):
            return f"what {self._whom} says is not TLS"
        if self._secured:
            return f"what came from {self._whom} was changed on the way ({reason})"
        return f"there is no TLS with {self._whom} ({reason})"

    def eof_received(self) -> None:
        """The other side writes no more: nor does this one."""

    def pause_writing(self) -> None:
        """The buffer below is full."""
        self._above.pause_writing()

    def resume_writing(self) -> None:
        """The buffer below has room again."""
        self._above.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._closing = True
        self._above.connection_lost(self._error or exc)

    # -- from above ----------------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes; only once it is secured."""
        if len(data) and self._error is None and not self._closing:
            self._object.write(data)
            self._below.write(self._outgoing.read())

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send several."""
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        """Close when what was written has left."""
        if not self._closing:
            self._closing = True
            if self._secured:
                try:
                    self._object.unwrap()
                except ssl.SSLError:
                    pass  # it wants to hear the other side's goodbye; ours is written
                self._flush()
            self._below.close()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._below.abort()

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._closing or self._below.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the connection below knows; "tls" is this transport."""
        return self if name == "tls" else self._below.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """From now on this protocol is called."""
        self._above = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol that is called."""
        return self._above

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Of the buffer below, which holds what is encrypted."""
        self._below.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Bytes in the buffer below."""
        return self._below.get_write_buffer_size()

    def pause_reading(self) -> None:
        """Let nothing in."""
        self._below.pause_reading()

    def resume_reading(self) -> None:
        """Let it in again."""
        self._below.resume_reading()

    def is_reading(self) -> bool:
        """Whether bytes are let in."""
        return self._below.is_reading()

    def can_write_eof(self) -> bool:
        """TLS closes both ways."""
        return False
