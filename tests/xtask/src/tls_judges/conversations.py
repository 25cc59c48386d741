"""Unusual and malformed TLS handshakes, held with two servers, and what each made of them.

    python3 conversations.py PORT PORT

Both servers send application data back. Each conversation is held with both, and what was seen on
the wire is written down in words; two servers of which one is the other with something beside it
must give the same words. A JSON line for each conversation goes to standard output. The first part
is written byte by byte, the second is tlslite-ng's client, which is made to misbehave.
"""

import json
import socket
import struct
import sys
from concurrent.futures import ThreadPoolExecutor

from tlslite.api import HandshakeSettings, TLSConnection
from tlslite.constants import AlertDescription, ContentType, HandshakeType
from tlslite.errors import TLSAbruptCloseError, TLSLocalAlert, TLSRemoteAlert
from tlslite.messages import Alert, ApplicationData, ChangeCipherSpec, Message

PATIENCE = 5
X25519, P256 = 29, 23


def vector(length_bytes, content):
    return len(content).to_bytes(length_bytes, "big") + content


def numbers(*values):
    return b"".join(struct.pack(">H", value) for value in values)


def key_share(*shares):
    return vector(2, b"".join(numbers(group) + vector(2, key) for group, key in shares))


# The base point: a public key like any other, whose private key nobody needs here.
SHARE = (X25519, b"\x09" + bytes(31))
SCHEMES = [0x0403, 0x0503, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601]
CIPHERS = [0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8]


def extensions(**changed):
    """The usual extensions by name; one that is None is left out."""
    usual = {
        "server_name": (0, vector(2, b"\0" + vector(2, b"localhost"))),
        "groups": (10, vector(2, numbers(X25519, P256, 24))),
        "formats": (11, vector(1, b"\0")),
        "schemes": (13, vector(2, numbers(*SCHEMES))),
        "alpn": (16, vector(2, vector(1, b"http/1.1"))),
        "extended_master_secret": (23, b""),
        "versions": (43, vector(1, numbers(0x0304, 0x0303))),
        "psk_modes": (45, vector(1, b"\1")),
        "key_share": (51, key_share(SHARE)),
        "renegotiation": (0xFF01, b"\0"),
    }
    usual.update(changed)
    return [it for it in usual.values() if it is not None]


# Without these there is TLS 1.2.
TLS12 = {"versions": None, "key_share": None, "psk_modes": None}


def hello(version=0x0303, session=bytes(range(32)), ciphers=None, compressions=b"\0", ext=None):
    listed = b"".join(
        numbers(kind) + vector(2, content) for kind, content in (extensions() if ext is None else ext)
    )
    return (
        numbers(version)
        + bytes(range(100, 132))
        + vector(1, session)
        + vector(2, numbers(*(CIPHERS if ciphers is None else ciphers)))
        + vector(1, compressions)
        + (vector(2, listed) if listed else b"")
    )


def handshake(body, kind=1):
    return bytes([kind]) + vector(3, body)


def record(content, kind=22, version=0x0301):
    return bytes([kind]) + numbers(version) + vector(2, content)


def first(body):
    return record(handshake(body))


def alert_name(description):
    return AlertDescription.toStr(description)


def words(received):
    """What a server sent in the clear, in words."""
    seen, encrypted = [], False
    while len(received) >= 5:
        kind, length = received[0], struct.unpack(">H", received[3:5])[0]
        content, received = received[5 : 5 + length], received[5 + length :]
        if kind == 20:
            encrypted = True
        elif kind == 23:
            if seen[-1:] != ["encrypted"]:
                seen.append("encrypted")
        elif kind == 21:
            seen.append("alert " + ("encrypted" if encrypted else alert_name(content[-1])))
        elif kind == 22 and not encrypted:
            while len(content) >= 4:
                body = 4 + int.from_bytes(content[1:4], "big")
                name = HandshakeType.toStr(content[0])
                if content[0] == 2:
                    retry = content[6:10].hex() == "cf21ad74"
                    cipher = content[39 + content[38] :][:2].hex()
                    name = ("hello_retry_request " if retry else "server_hello ") + cipher
                seen.append(name)
                content = content[body:]
        else:
            seen.append("record %d" % kind)
    if received:
        seen.append("half a record")
    return seen


def say(port, sent):
    """Sends bytes, ends our half, and reads to the end."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as tcp:
        received, end = b"", "closed"
        try:
            tcp.sendall(sent)
            tcp.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # It has hung up on us, and what it said before is still to be read.
        try:
            while piece := tcp.recv(65536):
                received += piece
        except socket.timeout:
            end = "silent"
        except OSError:
            pass  # A reset ends it as well: whether there is one depends on what is unread.
    return ", ".join(words(received) + [end])


def by_bytes():
    """Yields (group, name, bytes)."""
    usual = hello()
    whole = first(usual)
    for length in range(len(whole)):
        yield "early close", "after %d bytes" % length, whole[:length]
    for length in range(len(usual)):
        yield "truncated hello", "%d bytes of it" % length, first(usual[:length])
    for extra in (1, 2, 100, 3000):
        yield "oversized hello", "%d bytes too many" % extra, first(usual + bytes(extra))
    for length in (4000, 9000, 16000):
        padded = hello(ext=extensions(padding=(21, bytes(length))))
        yield "oversized hello", "padded by %d" % length, first(padded)
    for length in (17000, 40000, 65000):
        message = handshake(hello(ext=extensions(padding=(21, bytes(length - 400)))))
        pieces = [message[at : at + 16000] for at in range(0, len(message), 16000)]
        yield "oversized hello", "%d bytes in records" % length, b"".join(map(record, pieces))
    for length in (0x4000, 0x10000, 0xFFFFFF):
        yield "oversized hello", "says %d" % length, record(b"\1" + length.to_bytes(3, "big") + usual)
    for at in range(len(usual)):
        for how, change in (("inverted", 0xFF), ("bit 0", 1), ("bit 7", 0x80)):
            changed = usual[:at] + bytes([usual[at] ^ change]) + usual[at + 1 :]
            yield "changed byte", "%d %s" % (at, how), first(changed)
    for kind in range(256):
        yield "first record", "type %d" % kind, record(handshake(usual), kind)
        yield "first message", "type %d" % kind, record(handshake(usual, kind))
    for version in (0, 0x0200, 0x0300, 0x0302, 0x0303, 0x0304, 0x0305, 0x03FF, 0x0400, 0xFFFF):
        yield "record", "version %04x" % version, record(handshake(usual), version=version)
        yield "versions", "legacy %04x" % version, first(hello(version))
        yield "versions", "legacy %04x alone" % version, first(hello(version, ext=extensions(**TLS12)))
        only = extensions(versions=(43, vector(1, numbers(version))))
        yield "versions", "supported %04x" % version, first(hello(ext=only))
        both = extensions(versions=(43, vector(1, numbers(version, 0x0303))))
        yield "versions", "supported %04x or 0303" % version, first(hello(ext=both))
    for length in (0, 1, 3, 4):
        yield "record", "%d bytes" % length, record(handshake(usual)[:length])
    for length in (16384, 16385, 18432, 18433, 65535):
        yield "record", "says %d" % length, bytes([22]) + numbers(0x0301, length) + bytes(length)
    for cipher in [*range(0x100), *range(0xC000, 0xC100), *range(0xCCA8, 0xCCAF), 0x5600]:
        only = hello(ciphers=[cipher], ext=extensions(**TLS12))
        yield "cipher suite", "%04x alone" % cipher, first(only)
    for cipher in [*range(0x1300, 0x1308), 0x0A0A]:
        yield "cipher suite", "%04x alone" % cipher, first(hello(ciphers=[cipher]))
        yield "cipher suite", "%04x first" % cipher, first(hello(ciphers=[cipher, 0x1301]))
    yield "cipher suite", "fallback signalled", first(hello(ciphers=CIPHERS + [0x5600]))
    yield "cipher suite", "none", first(hello(ciphers=[]))
    groups = [*range(1, 36), *range(256, 263), 0x0A0A, 0x11EB, 0x11EC, 0xFF01, 0xFF02]
    for group in groups:
        offer = (10, vector(2, numbers(group)))
        yield "group", "%d, TLS 1.2" % group, first(hello(ext=extensions(groups=offer, **TLS12)))
        for name, share in (
            ("without share", key_share()),
            ("with a share of nothing", key_share((group, b""))),
            ("with a share of 32 bytes", key_share((group, SHARE[1]))),
            ("with a share of 65 bytes", key_share((group, b"\4" + bytes(64)))),
        ):
            ext = extensions(groups=offer, key_share=(51, share))
            yield "group", "%d %s" % (group, name), first(hello(ext=ext))
    many = key_share(*[(group, bytes(32)) for group in groups])
    yield "group", "shares of all", first(hello(ext=extensions(key_share=(51, many))))
    yield "group", "a share twice", first(hello(ext=extensions(key_share=(51, key_share(SHARE, SHARE)))))
    yield "group", "a share of order one", first(
        hello(ext=extensions(key_share=(51, key_share((X25519, bytes(32))))))
    )
    schemes = [h << 8 | s for h in range(9) for s in range(12)] + [0x0A0A, 0xFFFF]
    for scheme in schemes:
        only = (13, vector(2, numbers(scheme)))
        yield "signature", "%04x, TLS 1.3" % scheme, first(hello(ext=extensions(schemes=only)))
        yield "signature", "%04x, TLS 1.2" % scheme, first(hello(ext=extensions(schemes=only, **TLS12)))
    for name, changed in (("none", None), ("an empty list", (13, b"\0\0")), ("odd", (13, b"\0\3\4\3\4"))):
        yield "signature", name + ", TLS 1.3", first(hello(ext=extensions(schemes=changed)))
        yield "signature", name + ", TLS 1.2", first(hello(ext=extensions(schemes=changed, **TLS12)))
    for kind in [*range(70), 0x0A0A, 0x3374, 0xFE0D, 0xFF01, 0xFFFF]:
        others = [it for it in extensions() if it[0] != kind]
        for name, contents in (
            ("empty", [b""]),
            ("a byte", [b"\0"]),
            ("garbage", [bytes(range(255, 200, -1))]),
            ("twice", [b"", b""]),
        ):
            ext = [(kind, content) for content in contents] + others
            yield "extension", "%d %s" % (kind, name), first(hello(ext=ext))
        yield "extension", "%d missing" % kind, first(hello(ext=others))
        last = others + [(kind, dict(extensions()).get(kind, b""))]
        yield "extension", "%d last" % kind, first(hello(ext=last))
    yield "extension", "none at all", first(hello(ext=[]))
    yield "extension", "a pre-shared key that is none", first(
        hello(ext=extensions() + [(41, vector(2, vector(2, b"x" * 80) + bytes(4)) + vector(2, vector(1, bytes(32))))])
    )
    yield "extension", "early data", first(hello(ext=extensions(early=(42, b""))))
    for name in (b"", b"x", b"127.0.0.1", b"LOCALHOST", b"local host", b"a" * 300, b"\xff\xfe", b"localhost."):
        for more, changed in (("1.3", {}), ("1.2", TLS12)):
            ext = extensions(server_name=(0, vector(2, b"\0" + vector(2, name))), **changed)
            yield "server name", "%r, TLS %s" % (name[:12], more), first(hello(ext=ext))
    for name in (b"", b"h2", b"http/1.0", b"http/1.1", b"\0", b"x" * 255):
        ext = extensions(alpn=(16, vector(2, vector(1, name))))
        yield "protocol", repr(name[:12]), first(hello(ext=ext))
    for compressions in (b"", b"\1", b"\1\0", b"\0\1", bytes(255)):
        yield "compression", compressions[:4].hex(), first(hello(compressions=compressions))
        yield "compression", compressions[:4].hex() + ", TLS 1.2", first(
            hello(compressions=compressions, ext=extensions(**TLS12))
        )
    for length in range(40):
        yield "session id", "%d bytes" % length, first(hello(session=bytes(length)))
    message = handshake(usual)
    for length in (1, 2, 3, 4, 5, 16, 100, 200):
        pieces = [record(message[at : at + length]) for at in range(0, len(message), length)]
        yield "fragments", "of %d bytes" % length, b"".join(pieces)
    half = [record(message[:50]), record(message[50:])]
    for name, between in (
        ("an empty record", record(b"")),
        ("many empty records", record(b"") * 40),
        ("change_cipher_spec", record(b"\1", 20)),
        ("a warning", record(b"\1\x5a", 21)),
        ("close_notify", record(b"\1\0", 21)),
        ("application data", record(b"data", 23)),
        ("an unknown record", record(b"data", 99)),
    ):
        yield "between", name + " before", between + record(message)
        yield "between", name + " in the middle", between.join(half)
        yield "between", name + " after", record(message) + between
    for count in (1, 2, 4, 5, 32, 33, 100):
        yield "between", "%d times change_cipher_spec" % count, record(message) + record(b"\1", 20) * count
        yield "between", "%d warnings" % count, record(b"\1\x5a", 21) * count + record(message)
    for level in (0, 1, 2, 3):
        for description in (0, 10, 20, 40, 90, 100, 255):
            said = record(bytes([level, description]), 21)
            yield "alert", "%d %d before" % (level, description), said + record(message)
            yield "alert", "%d %d after" % (level, description), record(message) + said
    for said in (b"", b"\1", b"\1\0\0", b"\1\0\1\0"):
        yield "alert", "of %d bytes" % len(said), record(message) + record(said, 21)
    for body, name in ((b"", "nothing"), (b"\0", "zero"), (b"\2", "two"), (b"\1\1", "two bytes")):
        yield "between", "change_cipher_spec with " + name, record(message) + record(body, 20)
    yield "between", "the hello again", record(message) * 2
    yield "between", "the hello again in one record", record(message * 2)
    yield "between", "garbage after it", record(message) + bytes(range(256))
    yield "not TLS", "HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield "not TLS", "SSH", b"SSH-2.0-OpenSSH_9.2\r\n"
    yield "not TLS", "SSL 2", bytes([0x80, 0x2E, 1, 3, 1, 0, 21, 0, 0, 0, 16]) + bytes(37)
    yield "not TLS", "zeros", bytes(5000)
    yield "not TLS", "nothing", b""
    retried = hello(ext=extensions(key_share=(51, key_share())))
    for name, again in (
        ("answered", usual),
        ("not answered", retried),
        ("answered with another group", hello(ext=extensions(key_share=(51, key_share((P256, b"\4" + bytes(64))))))),
        ("answered with other cipher suites", hello(ciphers=[0x1303])),
        ("answered with another session id", hello(session=bytes(32))),
        ("answered with TLS 1.2", hello(ext=extensions(**TLS12))),
    ):
        yield "hello retry", name, first(retried) + first(again)
        yield "hello retry", name + " after change_cipher_spec", first(retried) + record(b"\1", 20) + first(again)


class Tap:
    """A socket of which what goes out can be changed."""

    def __init__(self, tcp):
        self.tcp, self.change = tcp, None

    def _changed(self, data):
        return self.change(bytes(data)) if self.change else data

    def send(self, data):
        self.tcp.sendall(self._changed(data))
        return len(data)

    def sendall(self, data):
        self.tcp.sendall(self._changed(data))

    def __getattr__(self, name):
        return getattr(self.tcp, name)


class Client(TLSConnection):
    """A client in which each message that is sent can be exchanged for others."""

    exchange = None

    def _sendMsg(self, msg, randomizeFirstBlock=True, update_hashes=True):
        messages = [msg]
        if self.exchange:
            messages = self.exchange(msg, self)
        for each in messages:
            yield from super()._sendMsg(each, randomizeFirstBlock, update_hashes)


def drain(generator):
    for _ in generator:
        pass


def hold(port, version, exchange=None, after=None, settings=None, session=None, tap=None):
    """Shakes hands by tlslite-ng, sends and gets data back, and says in words how it went."""
    ours = HandshakeSettings()
    ours.minVersion = ours.maxVersion = version
    ours.keyShares = ["x25519"]
    for name, value in (settings or {}).items():
        setattr(ours, name, value)
    said = []
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as tcp:
        tapped = Tap(tcp)
        client = Client(tapped)
        client.ignoreAbruptClose = False
        client.exchange = exchange
        try:
            client.handshakeClientCert(settings=ours, session=session, serverName="localhost", alpn=[b"http/1.1"])
            said.append("%s %s" % (client.getVersionName(), client.getCipherName()))
            if client.session.resumable and session is not None:
                said.append("resumed" if client.resumed else "not resumed")
            tapped.change = tap
            if after:
                after(client)
            client.write(b"question")
            tapped.change = None
            said.append("echo" if client.read(8, 8) == b"question" else "no echo")
            client.closeSocket = False
            if session is None and version == (3, 4):
                said.append("%d tickets" % len(client.tickets))
            client.close()
            said.append("closed")
        except TLSRemoteAlert as error:
            said.append("alert " + alert_name(error.description))
        except TLSLocalAlert as error:
            said.append("refused by the client: " + alert_name(error.description))
        except TLSAbruptCloseError:
            said.append("broken off")
        except socket.timeout:
            said.append("silent")
        except OSError:
            said.append("broken off")
        except Exception as error:  # pylint: disable=broad-except
            # A client that was made to misbehave may trip over itself; both times in the same way.
            said.append("the client tripped: %s" % type(error).__name__)
    return ", ".join(said), client.session


def is_handshake(msg, kind):
    return msg.contentType == ContentType.handshake and getattr(msg, "handshakeType", None) == kind


def raw(kind, content):
    return Message(kind, bytearray(content))


def at_finished(make):
    """Exchanges the Finished for what `make` says."""

    def exchange(msg, client):
        return make(msg, client) if is_handshake(msg, HandshakeType.finished) else [msg]

    return exchange


def flipped(at):
    def make(msg, _client):
        msg.verify_data[at % len(msg.verify_data)] ^= 1
        return [msg]

    return at_finished(make)


def cut(length):
    def make(msg, _client):
        msg.verify_data = msg.verify_data[:length] + bytearray(max(0, length - len(msg.verify_data)))
        return [msg]

    return at_finished(make)


def with_change_cipher_spec(*instead):
    def exchange(msg, _client):
        return list(instead) if msg.contentType == ContentType.change_cipher_spec else [msg]

    return exchange


def key_exchange(content):
    def exchange(msg, _client):
        if not is_handshake(msg, HandshakeType.client_key_exchange):
            return [msg]
        return [raw(ContentType.handshake, handshake(content, 16))]

    return exchange


def sends(*messages):
    def after(client):
        for message in messages:
            drain(client._sendMsg(message))

    return after


def flips(at):
    def change(data):
        data = bytearray(data)
        data[at] ^= 1
        return bytes(data)

    return change


def by_client():
    """Yields (group, name, how it is held)."""
    for version, name in (((3, 3), "TLS 1.2"), ((3, 4), "TLS 1.3"), ((3, 2), "TLS 1.1"), ((3, 1), "TLS 1.0")):
        yield "complete", name, lambda port, version=version: hold(port, version, settings={"minVersion": version})[0]
    for version, tls in (((3, 3), "TLS 1.2"), ((3, 4), "TLS 1.3")):

        def case(version=version, **how):
            return lambda port: hold(port, version, **how)[0]

        for group in ("x25519", "secp256r1", "secp384r1", "secp521r1", "x448"):
            only = {"eccCurves": [group], "dhGroups": [], "keyShares": [group], "defaultCurve": group}
            yield "complete", "%s, %s" % (tls, group), case(settings=only)
        retry = {"keyShares": []}
        yield "complete", tls + ", no key share", case(settings=retry)
        for cipher in ("aes128gcm", "aes256gcm", "chacha20-poly1305", "aes128ccm", "aes128", "3des"):
            yield "complete", "%s, %s" % (tls, cipher), case(settings={"cipherNames": [cipher]})
        for digest in ("sha512", "sha384", "sha256", "sha1"):
            for schemes in (["pss"], ["pkcs1"]):
                only = {"rsaSigHashes": [digest], "rsaSchemes": schemes}
                yield "complete", "%s, %s %s" % (tls, schemes[0], digest), case(settings=only)
        for name, how in (("extended master secret", "useExtendedMasterSecret"), ("padding", "usePaddingExtension")):
            yield "complete", "%s, no %s" % (tls, name), case(settings={how: False})
        yield "complete", tls + ", records of 64 bytes", case(settings={"record_size_limit": 64})

        def resumed(port, version=version):
            first_words, session = hold(port, version)
            return first_words + "; " + hold(port, version, session=session)[0]

        yield "complete", tls + ", again with its session", resumed

        for at in range(0, 12):
            yield "finished", "%s, bit in byte %d" % (tls, at), case(exchange=flipped(at))
        for length in (0, 1, 11, 13, 31, 33, 47, 49, 300):
            yield "finished", "%s, %d bytes" % (tls, length), case(exchange=cut(length))
        for other, make in (
            ("missing", lambda msg, _: []),
            ("twice", lambda msg, _: [msg, msg]),
            ("data instead", lambda msg, _: [ApplicationData().create(bytearray(b"early"))]),
            ("data before it", lambda msg, _: [ApplicationData().create(bytearray(b"early")), msg]),
            ("alert instead", lambda msg, _: [Alert().create(AlertDescription.handshake_failure)]),
            ("close_notify instead", lambda msg, _: [Alert().create(AlertDescription.close_notify)]),
            ("warning before it", lambda msg, _: [Alert().create(AlertDescription.user_canceled, 1), msg]),
            ("hello instead", lambda msg, _: [raw(22, handshake(hello()))]),
            ("certificate before it", lambda msg, _: [raw(22, handshake(b"\0\0\0\0", 11)), msg]),
            ("no certificates before it", lambda msg, _: [raw(22, handshake(b"\0\0\0", 11)), msg]),
            ("unknown message before it", lambda msg, _: [raw(22, handshake(b"x", 99)), msg]),
            ("empty record before it", lambda msg, _: [raw(22, b""), msg]),
            ("unknown record before it", lambda msg, _: [raw(77, b"x"), msg]),
        ):
            yield "finished", "%s, %s" % (tls, other), case(exchange=at_finished(make))
        for other, message in (
            ("nothing", []),
            ("an empty one", [raw(20, b"")]),
            ("of two bytes", [raw(20, b"\1\1")]),
            ("of another value", [raw(20, b"\2")]),
            ("twice", [ChangeCipherSpec().create(), ChangeCipherSpec().create()]),
        ):
            yield "change_cipher_spec", "%s, %s" % (tls, other), case(exchange=with_change_cipher_spec(*message))

        after = {
            "hello again (renegotiation)": [raw(22, handshake(hello(ext=extensions(**TLS12))))],
            "hello again, TLS 1.3": [raw(22, handshake(hello()))],
            "hello request": [raw(22, handshake(b"", 0))],
            "finished again": [raw(22, handshake(bytes(12), 20))],
            "new ticket": [raw(22, handshake(bytes(16), 4))],
            "certificate": [raw(22, handshake(b"\0\0\0\0", 11))],
            "unknown message": [raw(22, handshake(b"x", 99))],
            "half a message": [raw(22, b"\1\0\1")],
            "empty handshake record": [raw(22, b"")],
            "key update": [raw(22, handshake(b"\0", 24))],
            "key update of another value": [raw(22, handshake(b"\2", 24))],
            "key update of two bytes": [raw(22, handshake(b"\0\0", 24))],
            "key update with more behind it": [raw(22, handshake(b"\0", 24) + b"\1")],
            "end of early data": [raw(22, handshake(b"", 5))],
            "change_cipher_spec": [ChangeCipherSpec().create()],
            "empty data": [ApplicationData().create(bytearray())],
            "empty data 40 times": [ApplicationData().create(bytearray())] * 40,
            "warning": [Alert().create(AlertDescription.user_canceled, 1)],
            "warning 10 times": [Alert().create(AlertDescription.user_canceled, 1)] * 10,
            "no renegotiation": [Alert().create(AlertDescription.no_renegotiation, 1)],
            "fatal alert": [Alert().create(AlertDescription.internal_error)],
            "close_notify": [Alert().create(AlertDescription.close_notify, 1)],
            "alert of a byte": [raw(21, b"\1")],
            "unknown record": [raw(77, b"x")],
            "heartbeat": [raw(24, b"\1\0\1x" + bytes(16))],
        }
        for other, messages in after.items():
            yield "after", "%s, %s" % (tls, other), case(after=sends(*messages))
        for at, other in ((0, "type"), (1, "version"), (3, "length, high"), (4, "length"), (5, "first byte"), (-1, "last byte")):
            yield "record on the way", "%s, %s" % (tls, other), case(tap=flips(at))
        yield "record on the way", tls + ", twice", case(tap=lambda data: data * 2)
        yield "record on the way", tls + ", cut short", case(tap=lambda data: data[:-1])
        yield "record on the way", tls + ", in the clear", case(tap=lambda data: record(b"question", 23, 0x0303))
        yield "record on the way", tls + ", alert in the clear", case(tap=lambda data: record(b"\2\x28", 21, 0x0303) + data)
    for name, content in (
        ("empty", b""),
        ("of length 0", b"\0"),
        ("of 31 bytes", vector(1, bytes(31))),
        ("all zero", vector(1, bytes(32))),
        ("of 33 bytes", vector(1, bytes(33))),
        ("longer than said", vector(1, SHARE[1]) + b"x"),
        ("shorter than said", vector(1, SHARE[1])[:-1]),
        ("another key", vector(1, SHARE[1])),
    ):
        only = {"eccCurves": ["x25519"], "keyShares": ["x25519"], "dhGroups": []}
        yield "client key exchange", name, lambda port, content=content, only=only: hold(
            port, (3, 3), exchange=key_exchange(content), settings=only
        )[0]


def main():
    ports = [int(port) for port in sys.argv[1:]]
    cases = [(group, name, lambda port, sent=sent: say(port, sent)) for group, name, sent in by_bytes()]
    cases += by_client()

    def judge(case):
        group, name, conversation = case
        said = [conversation(port) for port in ports]
        if len(set(said)) > 1:
            # Once more, as what is lost in a reset depends on who was faster.
            said = [conversation(port) for port in ports]
        return {"group": group, "name": name, "said": said}

    with ThreadPoolExecutor(8) as pool:
        for judged in pool.map(judge, cases):
            print(json.dumps(judged), flush=True)


if __name__ == "__main__":
    main()
