"""Notifications over real HTTP: the request, its signature, and what counts as delivered."""

import ssl
import time
from typing import Any

import pytest
import trio
import trustme
from support.faulty import answering, silent
from support.receiver import SECRET, SILENT, Receiver, check_signature, free_port, receiving

from netra_trio.cli.check_services import check_services
from netra_trio.config.settings import Settings
from netra_trio.ids import NotificationId, QuestionId, RunId, ThreadId, UserId
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.notifications import Notification
from netra_trio.webhook.endpoint import Endpoint, NotDelivered
from netra_trio.webhook.signature import body_of, signature

ENDED = Notification(
    NotificationId("ntf_1"),
    "agent_completed",
    UserId("ålice"),
    ThreadId("t-1"),
    RunId("run_1"),
    RunStatus.COMPLETED,
)
ASKING = Notification(
    NotificationId("ntf_2"),
    "agent_asking",
    UserId("alice"),
    ThreadId("t-1"),
    RunId("run_1"),
    question_id=QuestionId("q_1"),
)


async def send(url: str, *notifications: Notification, **options: Any) -> None:
    endpoint = Endpoint(url, SECRET, wall_clock=time.time, **options)
    async with endpoint.open():
        for each in notifications:
            await endpoint.send(each)


async def why(url: str, **options: Any) -> str:
    with pytest.raises(NotDelivered) as caught:
        await send(url, ENDED, **options)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "://" not in str(caught.value)
    return str(caught.value)


async def test_a_request_has_the_notification_its_key_and_a_signature() -> None:
    with receiving() as receiver:
        await send(receiver.url, ENDED, ASKING)
    ended, asking = receiver.deliveries  # the receiver has verified the signatures
    assert ended.notification == {
        "id": "ntf_1",
        "type": "agent_completed",
        "user_id": "ålice",
        "thread_id": "t-1",
        "run_id": "run_1",
        "status": "completed",
    }
    assert asking.notification == {
        "id": "ntf_2",
        "type": "agent_asking",
        "user_id": "alice",
        "thread_id": "t-1",
        "run_id": "run_1",
        "question_id": "q_1",
    }
    assert ended.headers["idempotency-key"] == "ntf_1"
    assert ended.headers["user-agent"].startswith("netra-trio/")


@pytest.mark.parametrize("status", [200, 204, 299])
async def test_an_answer_from_200_to_299_counts(status: int) -> None:
    with receiving() as receiver:
        receiver.script = [status]
        await send(receiver.url, ENDED)
        assert len(receiver.deliveries) == 1


@pytest.mark.parametrize("status", [300, 301, 308, 400, 404, 410, 429, 500, 503])
async def test_no_other_answer_counts(status: int) -> None:
    with receiving() as receiver:
        receiver.script = [status]
        assert await why(receiver.url) == f"status {status}"


async def test_a_redirect_is_not_followed() -> None:
    with receiving() as target, receiving() as receiver:
        receiver.script, receiver.headers = [307], {"location": target.url}
        assert await why(receiver.url) == "status 307"
        assert (len(receiver.deliveries), len(target.deliveries)) == (1, 0)


async def test_a_receiver_that_does_not_answer_in_time() -> None:
    with silent() as address:
        assert await why(f"http://{address}/", seconds=0.1) == "no answer within 0.1 s"
    with receiving() as receiver:
        receiver.script = [SILENT]
        assert await why(receiver.url, seconds=0.3) == "no answer within 0.3 s"


async def test_a_receiver_that_cannot_be_reached() -> None:
    assert await why(Receiver(free_port()).url) == "ConnectError"
    assert await why("http://no-such-host.invalid/") == "ConnectError"
    for other in (b"", b"SSH-2.0-OpenSSH_9.9\r\n"):  # it closes without having read all
        with answering(other) as address:
            reason = await why(f"http://{address}/")
            assert reason in {"RemoteProtocolError", "ReadError", "WriteError"}


async def test_an_endless_answer_is_not_read() -> None:
    with receiving() as receiver:
        receiver.more = 10**12
        await send(receiver.url, ENDED)


async def test_cancelling_is_safe() -> None:
    with receiving() as receiver:
        receiver.script = [SILENT]
        endpoint = Endpoint(receiver.url, SECRET, wall_clock=time.time)
        async with endpoint.open(), trio.open_nursery() as nursery:
            nursery.start_soon(endpoint.send, ENDED)
            await trio.to_thread.run_sync(receiver.wait, 1)
            nursery.cancel_scope.cancel()
        async with endpoint.open():
            await endpoint.send(ENDED)


async def test_the_certificate_is_verified() -> None:
    authority = trustme.CA()
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(served)
    trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(trusted)
    with receiving(tls=served) as receiver:
        assert await why(receiver.url) == "ConnectError"
        await send(receiver.url, ENDED, tls=trusted)
        assert len(receiver.deliveries) == 1


async def check(url: str, **options: Any) -> str | None:
    """Return why a webhook accepts no connection, None if it does."""
    try:
        await Endpoint(url, SECRET, wall_clock=time.time, **options).check()
    except NotDelivered as reason:
        return str(reason)
    return None


async def test_whether_it_accepts_connections() -> None:
    with receiving() as receiver:
        assert await check(receiver.url) is None
        assert receiver.deliveries == []
    assert await check(receiver.url) == "ConnectionRefusedError"
    assert await check("http://no-such-host.invalid/") == "gaierror"
    authority = trustme.CA()
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(served)
    trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(trusted)
    with receiving(tls=served) as receiver:
        assert await check(receiver.url, tls=trusted) is None
        assert await check(receiver.url) == "SSLCertVerificationError"
    with silent() as address:
        assert await check(f"https://{address}/", seconds=0.1) == "no answer within 0.1 s"


async def test_the_command_check_tries_it() -> None:
    with receiving() as receiver:
        settings = Settings(
            notify_webhook=receiver.url, notify_webhook_secret=SECRET, database_url="sqlite://"
        )
        expected = (True, "accepts connections; nothing was sent to it")
        assert (await check_services(settings))["webhook"] == expected
        assert receiver.deliveries == []
    refused = (False, "does not accept a connection (ConnectionRefusedError)")
    assert (await check_services(settings))["webhook"] == refused
    assert "webhook" not in await check_services(Settings(database_url="sqlite://"))


def test_a_signature_is_of_the_time_and_the_body() -> None:
    body = body_of(ENDED)
    signed = signature(body, SECRET, at=1_640_995_200)
    check_signature(signed, body, now=1_640_995_200)
    others = [
        signature(body, SECRET, at=1_640_995_201),
        signature(body, SECRET + "x", at=1_640_995_200),
        signature(body_of(ASKING), SECRET, at=1_640_995_200),
    ]
    assert len({signed.partition("v1=")[2], *(each.partition("v1=")[2] for each in others)}) == 4
    for wrong, text in ((others[1], body), (others[2], body), (signed, body + b" ")):
        with pytest.raises(AssertionError):
            check_signature(wrong, text, now=1_640_995_200)
