"""The life of a connection: idle and slow clients, clients that do not read, clients that leave, the server's end."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.gateway.http.wire import Held, post, serve

pytestmark = pytest.mark.virtual_time


async def test_an_idle_connection_is_closed_after_one_to_two_keep_alive_periods() -> None:
    async with serve() as server:
        line = server.connect()
        period_s = line.protocol.timeout_keep_alive
        await line.send(post())
        await asyncio.sleep(period_s * 0.9)
        await line.send(post())  # the timer finds that something happened, and looks again
        await asyncio.sleep(period_s * 0.9)
        assert not line.transport.closed
        await asyncio.sleep(period_s * 0.3)
        assert line.transport.closed


async def test_a_connection_that_waits_for_its_answer_is_not_idle() -> None:
    held = Held()
    async with serve(held) as server:
        line = server.connect()
        held.go.set()
        await line.send(post())
        held.go.clear()
        await line.send(post())
        await asyncio.sleep(line.protocol.timeout_keep_alive * 3)
        assert not line.transport.closed
        held.go.set()
        await line.send()
        assert line.answers() == [(200, b"1"), (200, b"1")]
        await asyncio.sleep(line.protocol.timeout_keep_alive * 2.1)
        assert line.transport.closed


@pytest.mark.parametrize("part", [post(b"12")[:-1], post(b"12")[:30]], ids=["half a body", "half a head"])
async def test_a_request_that_does_not_arrive_is_refused_and_the_connection_closed(part: bytes) -> None:
    async with serve(body_timeout_s=30) as server:
        line = server.connect()
        await line.send(part)
        await asyncio.sleep(29)
        assert not line.transport.closed
        await asyncio.sleep(2)
        assert [status for status, _ in line.answers()] == [408]
        await asyncio.sleep(2)
        assert line.transport.closed


async def test_each_request_has_the_whole_time_to_arrive() -> None:
    async with serve(body_timeout_s=30) as server:
        line, request = server.connect(), post(b"12")
        await line.send(request[:-1])
        await asyncio.sleep(20)
        await line.send(request[-1:])
        await line.send(request[:-1])
        await asyncio.sleep(20)  # the timer of the first one fires in between
        await line.send(request[-1:])
        assert line.answers() == [(200, b"12"), (200, b"12")]
        await asyncio.sleep(40)
        assert line.answers() == []


async def test_a_late_head_is_refused_after_the_answer_that_is_due() -> None:
    held = Held()
    async with serve(held, body_timeout_s=1) as server:
        line = server.connect()
        await line.send(post(b"1") + b"POST /fn")
        await asyncio.sleep(2)
        assert line.answers() == []
        held.go.set()
        await line.send()
        assert [status for status, _ in line.answers()] == [200, 408]


async def test_the_rest_of_a_refused_request_is_dropped_until_the_client_has_closed() -> None:
    async with serve() as server:
        line = server.connect()
        await line.send(b"\x16\x03\x01", b"more", post())
        assert [status for status, _ in line.answers()] == [400]
        assert (line.transport.half_closed, line.transport.closed) == (True, False)
        await line.half_close()
        assert line.transport.closed


async def test_a_client_that_reads_a_byte_a_second_is_let_go_and_a_slow_one_is_not() -> None:
    async with serve() as server:
        stalled, slow, gone = server.connect(), server.connect(), server.connect()
        for line in (stalled, slow, gone):
            line.transport.waiting_bytes = 1_000_000
            line.protocol.pause_writing()
        await gone.disconnect()
        for _ in range(3):
            stalled.transport.waiting_bytes -= 60
            slow.transport.waiting_bytes -= 100_000
            await asyncio.sleep(60)
        assert (stalled.transport.closed, slow.transport.closed) == (True, False)
        slow.protocol.resume_writing()
        await asyncio.sleep(120)
        assert not slow.transport.closed


# Half-closed connections


async def test_a_half_closed_client_gets_its_answers_and_then_the_end() -> None:
    held = Held()
    async with serve(held, max_batch_size=1) as server:
        line = server.connect()
        await line.send(post(b"1") + post(b"2", b"Origin: h") + post(b"3"))
        await line.half_close()
        await asyncio.sleep(5)
        assert not line.transport.closed
        held.go.set()
        await line.send()
        assert line.answers() == [(200, b"1"), (200, b"plain"), (200, b"3")]
        assert line.transport.closed


async def test_a_half_closed_client_of_starlette_gets_its_answer() -> None:
    async with serve() as server:
        line = server.connect()
        line.protocol.data_received(post(b"1", b"Origin: h"))
        await line.half_close()
        assert line.answers() == [(200, b"plain")]
        assert line.transport.closed


async def test_a_client_whose_kernel_resets_the_connection_is_gone() -> None:
    held = Held()
    async with serve(held) as server:
        line = server.connect()
        await line.send(post(b"1"))
        await line.half_close()
        line.transport.tcp_state = 7
        await asyncio.sleep(1)
        assert line.transport.closed
        await line.disconnect()
        assert server.harness.dispatcher.resolve("p/f").running == 0
        held.go.set()


async def test_a_client_that_closes_between_requests_is_closed_at_once() -> None:
    async with serve() as server:
        line = server.connect()
        await line.send(post(b"1"))
        await line.half_close()
        assert line.transport.closed


@pytest.mark.parametrize("headers", [(), (b"Origin: h",)], ids=["fast", "starlette"])
async def test_a_request_that_ends_with_the_connection_is_refused(headers: tuple[bytes, ...]) -> None:
    async with serve() as server:
        line = server.connect()
        await line.send(post(b"12", *headers)[:-1])
        await line.half_close()
        assert [status for status, _ in line.answers()] == [400]
        assert (line.transport.closed, server.invoked) == (True, 0)


async def test_no_further_request_is_invoked_while_the_client_does_not_read() -> None:
    async with serve() as server:
        line = server.connect()
        line.protocol.pause_writing()
        await line.send(post(b"1"))
        assert (server.invoked, line.transport.reading) == (0, False)
        line.protocol.resume_writing()
        await line.send()
        assert (server.invoked, line.transport.reading) == (1, True)
        assert line.answers() == [(200, b"1")]


async def test_a_request_with_a_known_head_waits_for_the_client_as_well() -> None:
    async with serve(cache_ttl_s=60.0) as server:
        line = server.connect()
        await line.send(post(b"1"))
        line.protocol.pause_writing()
        await line.send(post(b"1"))
        assert line.answers() == [(200, b"1")]
        line.protocol.resume_writing()
        await line.send()
        assert line.answers() == [(200, b"1")]
        assert server.invoked == 1  # the cache answers


async def test_a_request_that_waits_for_the_client_to_read_goes_with_the_client() -> None:
    async with serve() as server:
        line = server.connect()
        line.protocol.pause_writing()
        await line.send(post(b"1"))
        await line.disconnect()
        assert server.invoked == 0


async def test_a_client_that_leaves_cancels_what_runs_and_drops_what_is_pipelined() -> None:
    held = Held()
    async with serve(held, max_batch_size=1) as server:
        line = server.connect()
        await line.send(post(b"1") * 3 + post(b"2", b"Origin: x"))
        queue = server.harness.dispatcher.resolve("p/f")
        assert queue.running == 1
        await line.disconnect()
        assert (queue.running, server.harness.backend.replicas[0].cancelled) == (0, [0])
        held.go.set()
        await asyncio.sleep(1)
        assert (server.invoked, server.passed, line.transport.written) == (1, [], b"")
        assert server.state.connections == set()


async def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing_behind() -> None:
    async with serve(body_timeout_s=30) as server:
        line = server.connect()
        await line.send(post(b"12")[:-1])
        await line.disconnect()
        await asyncio.sleep(60)
        assert (line.transport.written, server.invoked) == (b"", 0)


async def test_the_servers_end_closes_idle_connections_and_lets_answers_go_out() -> None:
    held = Held()
    async with serve(held) as server:
        idle, busy = server.connect(), server.connect()
        await busy.send(post(b"1"))
        idle.protocol.shutdown()
        busy.protocol.shutdown()
        assert (idle.transport.closed, busy.transport.closed) == (True, False)
        held.go.set()
        await busy.send()
        assert b"connection: close\r\n" in busy.transport.written
        assert busy.answers() == [(200, b"1")]
        assert busy.transport.closed


async def test_a_refusal_on_a_connection_that_ends_says_so_and_closes_it() -> None:
    held = Held()
    async with serve(held, max_queued_requests=1, max_batch_size=1) as server:
        for _ in range(4):
            await server.connect().send(post(b"1"))
        staying, leaving = server.connect(), server.connect()
        await staying.send(post(b"1"))
        await leaving.send(post(b"1", b"Connection: close"))
        assert b"connection: close\r\n" in leaving.transport.written
        assert (staying.transport.closed, leaving.transport.closed) == (False, True)
        assert [status for status, _ in staying.answers() + leaving.answers()] == [429, 429]
        held.go.set()
        await asyncio.sleep(1)
