"""Messages between the platform and a zygote."""

from __future__ import annotations

import msgspec
import pytest

from clipper.contract import zygote as messages

REQUESTS = [
    messages.Preload(["numpy", "json"]),
    messages.Prepare("/bundles/ab", {"name": "f", "max_batch_size": 8}),
    messages.Fork(3, True),
    messages.Retire(),
]
EVENTS = [
    messages.Ready(["numpy"], {"torch": "OSError: no such file"}),
    messages.Refused("it started 1 threads", "poller", lasting=True),
    messages.Forked(3, 4711),
    messages.ForkFailed(3, "no memory"),
    messages.Exited(4711, -9),
]


def test_each_side_decodes_what_the_other_encodes() -> None:
    assert [messages.decode_request(messages.encode(request)) for request in REQUESTS] == REQUESTS
    assert [messages.decode_event(messages.encode(event)) for event in EVENTS] == EVENTS
    assignment = messages.Assignment("f-1", "/bundles/ab", {"TOKEN": "t"}, ["HOME"])
    assert messages.decode_assignment(messages.encode(assignment)) == assignment


@pytest.mark.parametrize("data", [b"{", b"\x91\xa5Forge", messages.encode(messages.Retire())[:-1]])
def test_what_is_no_message_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        messages.decode_event(data)
    with pytest.raises(msgspec.DecodeError):
        messages.decode_request(data)


def test_a_message_that_a_socket_would_not_take_in_one_piece_is_refused() -> None:
    with pytest.raises(OSError, match="over the limit of 196608"):
        messages.encode(messages.Preload(["x" * messages.MAX_MESSAGE_BYTES]))
