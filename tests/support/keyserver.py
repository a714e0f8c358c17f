"""A key server on this machine with scripted failures, and signers of tokens.

with key_server(SIGNERS["RS256"]) as server:
    keys = KeySet(KeyServer(server.url).fetch)
    server.answer = LIES["not JSON"]
    assert server.requests == 0
"""

import base64
import gzip
import json
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import jwt
from attrs import define, field, frozen
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from support.ports import HOST, kept_port

Jwk = dict[str, Any]
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

DISCOVERY = "/.well-known/openid-configuration"

MAKERS: dict[str, Callable[[], Private]] = {
    "RS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


@frozen
class Signer:
    """A private key that signs tokens, and the name of its public key."""

    algorithm: str
    kid: str | None
    private: Private = field(repr=False)

    @classmethod
    def new(cls, algorithm: str, kid: str | None) -> "Signer":
        """Return a signer with a new key."""
        return cls(algorithm, kid, MAKERS[algorithm]())

    def jwk(self, **more: Any) -> Jwk:
        """Return the public key for a key set; a member that is `...` is left out."""
        public = cast("Any", get_default_algorithms()[self.algorithm]).to_jwk(
            self.private.public_key(), as_dict=True
        )
        named = {} if self.kid is None else {"kid": self.kid}
        members = {**public, "use": "sig", "alg": self.algorithm, **named, **more}
        return {name: value for name, value in members.items() if value is not ...}

    def private_jwk(self) -> Jwk:
        """Return the private key, for a provider that signs with it."""
        writer = cast("Any", get_default_algorithms()[self.algorithm])
        jwk = {**writer.to_jwk(self.private, as_dict=True), "kid": self.kid, "use": "sig"}
        jwk.pop("key_ops", None)
        return {**jwk, "alg": self.algorithm}

    def sign(self, claims: dict[str, Any] | None = None, **header: Any) -> str:
        """Return a token; a header that is `...` is left out."""
        named = {} if self.kid is None else {"kid": self.kid}
        known = {name: value for name, value in {**named, **header}.items() if value is not ...}
        payload = {"sub": "alice", "exp": int(time.time()) + 3600} if claims is None else claims
        return jwt.encode(payload, self.private, algorithm=self.algorithm, headers=known)


SIGNERS = {name: Signer.new(name, f"{name}-1") for name in MAKERS}
"""A signer for each algorithm; shared, because an RSA key takes a tenth of a second to make."""


def key_set(*keys: Signer | Jwk | Any) -> bytes:
    """Return a key set with the keys of these signers, or with any other values."""
    listed = [key.jwk() if isinstance(key, Signer) else key for key in keys]
    return json.dumps({"keys": listed}).encode()


def http_answer(
    body: bytes, *headers: str, status: str = "200 OK", length: int | None = None
) -> bytes:
    """Return the bytes of an HTTP answer."""
    lines = [
        f"HTTP/1.1 {status}",
        "Content-Type: application/json",
        f"Content-Length: {len(body) if length is None else length}",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def base64url(data: bytes) -> str:
    """Return bytes in base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


_OCT = {"kty": "oct", "k": base64url(b"x" * 32), "alg": "HS256", "kid": "RS256-1"}

LIES = {
    "HTML": http_answer(b"<!doctype html><title>Sign in</title>"),
    "nothing": http_answer(b""),
    "not HTTP": b"SSH-2.0-OpenSSH_9.9\r\n",
    "a closed door": b"",
    "half an answer": http_answer(key_set(SIGNERS["RS256"]), length=100_000),
    "status 500": http_answer(key_set(SIGNERS["RS256"]), status="500 Oops"),
    "status 204": http_answer(b"", status="204 No Content"),
    "an endless head": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000,
    "no keys": http_answer(key_set()),
    "a shared secret": http_answer(key_set(_OCT)),
    "an array": http_answer(b"[]"),
    "a string": http_answer(b'"keys"'),
    "keys a number": http_answer(b'{"keys": 5}'),
    "keys an object": http_answer(b'{"keys": {"kty": "RSA"}}'),
    "keys of wrong types": http_answer(
        key_set(5, None, "RSA", [], {}, {"kty": []}, {"kty": "RSA"})
    ),
    "ten megabytes": http_answer(b'{"keys": [' + b" " * 10_000_000 + b"]}"),
    "a deep nesting": http_answer(b'{"keys": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "a huge number": http_answer(b'{"keys": ' + b"9" * 100_000 + b"}"),
    "not UTF-8": http_answer(b'{"keys": ["\xff\xfe"]}'),
    "a gzip bomb": http_answer(
        gzip.compress(b'{"keys": [' + b" " * 50_000_000 + b"]}"), "Content-Encoding: gzip"
    ),
    "an unknown encoding": http_answer(key_set(SIGNERS["RS256"]), "Content-Encoding: zebra"),
}
"""Invalid answers of a key server."""


@define(eq=False)
class LoopbackKeyServer:
    """A key server; `stop` and `start` keep its port.

    Attributes:
        answer: The bytes of its answer.
        port: The port, the same after each start.
        tls: The TLS context; None without TLS.
        pause: Seconds between the bytes of an answer; 0 for all at once.
        delays: Seconds before an answer, by path.
        is_mute: Whether it accepts requests and does not answer.
        requests: The number of requests.
        answers: Other answers, by path.
        paths: The paths of the requests.
    """

    answer: bytes
    port: int
    tls: ssl.SSLContext | None = None
    pause: float = 0.0
    delays: dict[str, float] = field(factory=dict)
    is_mute: bool = False
    requests: int = 0
    answers: dict[str, bytes] = field(factory=dict)
    paths: list[str] = field(factory=list)
    _leaving: threading.Event = field(factory=threading.Event)
    _listener: socketserver.TCPServer | None = None

    @property
    def issuer(self) -> str:
        """The URL of this server without a path."""
        return f"{'http' if self.tls is None else 'https'}://localhost:{self.port}"

    @property
    def url(self) -> str:
        """The URL of its key set."""
        return f"{self.issuer}/jwks"

    def describe(self, **more: Any) -> None:
        """Answer with a discovery document; a member that is `...` is left out."""
        members = {
            "issuer": self.issuer,
            "jwks_uri": self.url,
            "authorization_endpoint": f"{self.issuer}/auth",
            "token_endpoint": f"{self.issuer}/token",
            **more,
        }
        known = {name: value for name, value in members.items() if value is not ...}
        self.answers[DISCOVERY] = http_answer(json.dumps(known).encode())

    def publish(self, *keys: Signer | Jwk) -> None:
        """Answer with these keys from now on."""
        self.answer = http_answer(key_set(*keys))

    def start(self) -> None:
        """Listen on its port."""
        server = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):  # the client may disconnect at any time
                    server._serve(self.request)

        class Listener(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True
            request_queue_size = 1024

        self._leaving = threading.Event()
        self._listener = Listener((HOST, self.port), Handler)
        listen = self._listener.serve_forever
        threading.Thread(target=listen, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening: connections are refused."""
        if self._listener is not None:
            self._leaving.set()
            self._listener.shutdown()
            self._listener.server_close()
            self._listener = None

    def _serve(self, line: socket.socket) -> None:
        if self.tls is not None:
            line = self.tls.wrap_socket(line, server_side=True)
        with line:
            head = b""
            while b"\r\n\r\n" not in head:
                piece = line.recv(4096)
                if not piece:
                    return
                head += piece
            self.requests += 1
            path = head.partition(b" ")[2].partition(b" ")[0].decode()
            self.paths.append(path)
            if self._leaving.wait(self.delays.get(path, 0.0)):
                return
            self._speak(line, self.answers.get(path, self.answer))

    def _speak(self, line: socket.socket, answer: bytes) -> None:
        if self.is_mute:
            self._leaving.wait()
        elif not self.pause:
            line.sendall(answer)
        else:
            for byte in answer:
                line.sendall(bytes([byte]))
                if self._leaving.wait(self.pause):
                    return


@contextmanager
def key_server(
    *keys: Signer | Jwk, tls: ssl.SSLContext | None = None
) -> Iterator[LoopbackKeyServer]:
    """Run a key server with these keys, during the block."""
    with kept_port() as port:
        server = LoopbackKeyServer(http_answer(key_set(*keys)), port, tls)
        server.start()
        try:
            yield server
        finally:
            server.stop()
