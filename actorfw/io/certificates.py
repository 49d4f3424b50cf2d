"""From when until when a certificate is valid, read from the file itself.

The standard library tells that only of connections that stand.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

__all__ = ["validity"]

_BEGIN = "-----BEGIN CERTIFICATE-----"
_END = "-----END CERTIFICATE-----"


def validity(pem: bytes) -> tuple[float, float]:
    """When the first certificate of a PEM file begins and ceases to be valid, in seconds since 1970.

    Raises:
        ValueError: there is none in it.
    """
    text = pem.decode("ascii", "replace")
    begin, end = text.find(_BEGIN), text.find(_END)
    if begin < 0 or end < begin:
        raise ValueError("there is no certificate in it")
    try:
        # Certificate ::= SEQUENCE { tbsCertificate SEQUENCE { [0] version?, serial, algorithm, issuer, validity ...
        fields = _parts(_parts(_parts(ssl.PEM_cert_to_DER_cert(text[begin : end + len(_END)]))[0][1])[0][1])
        if fields[0][0] == 0xA0:
            fields = fields[1:]
        (first, begins), (second, ends) = _parts(fields[3][1])
        return _time(first, begins), _time(second, ends)
    except (IndexError, ValueError) as error:
        raise ValueError(f"its certificate can't be read ({error})") from error


def _parts(der: bytes) -> list[tuple[int, bytes]]:
    """The elements of DER, each as its tag and content."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length & 0x80:
            more = length & 0x7F
            length = int.from_bytes(der[at : at + more], "big")
            at += more
        if at + length > len(der):
            raise ValueError("it is cut off")
        found.append((tag, der[at : at + length]))
        at += length
    return found


def _time(tag: int, text: bytes) -> float:
    # UTCTime has two digits of the year, those from 50 on being of the last century; GeneralizedTime has four.
    digits = text.decode("ascii")
    if tag == 0x17:
        digits = ("19" if int(digits[:2]) >= 50 else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
