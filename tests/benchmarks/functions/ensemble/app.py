"""Sixteen models that are each right four times of five, and one of them that takes ten times as long.

A query is a list of its right answer (0 to 9) and a number of its own, from which a model draws whether it is right.
"""

import asyncio
import random

import clipper

MODEL_S = 0.005
STRAGGLER_S = 10 * MODEL_S
ACCURACY = 0.8


async def vote(model: int, query: list[float], seconds: float = MODEL_S) -> int:
    await asyncio.sleep(seconds)
    draw = random.Random(f"{model} {query}")
    right = int(query[0])
    return right if draw.random() < ACCURACY else (right + draw.randrange(1, 10)) % 10


@clipper.function(min_replicas=1, max_replicas=1, max_ongoing_requests=64)
async def m1(query: list[float]) -> int:
    return await vote(1, query)


@clipper.function(min_replicas=1, max_replicas=1, max_ongoing_requests=64)
async def m2(query: list[float]) -> int:
    return await vote(2, query)


@clipper.function(min_replicas=1, max_replicas=1, max_ongoing_requests=64)
async def m3(query: list[float]) -> int:
    return await vote(3, query)


@clipper.function(min_replicas=1, max_replicas=1, max_ongoing_requests=64)
async def m4(query: list[float]) -> int:
    return await vote(4, query)


@clipper.function(min_replicas=1, max_replicas=1, max_ongoing_requests=64)
async def m5(query: list[float]) -> int:
    return await vote(5, query)


@clipper.function(min_replicas=1, max_replicas=1, max_ongoing_requests=64)
async def m6(query: list[float]) -> int:
    return await vote(6, query)


@clipper.function(min_replicas=1, max_replicas=1, max_ongoing_requests=64)
async def m7(query: list[float]) -> int:
    return await vote(7, query)


@clipper.function(min_replicas=1, max_replicas=1, max_ongoing_requests=64)
async def m8(query: list[float]) -> int:
    return await vote(8, query)


@clipper.function(min_replicas=1, max_replicas=1, max_ongoing_requests=64)
async def m9(query: list[float]) -> int:
    return await vote(9, query)


@clipper.function(min_replicas=1, max_replicas=1, max_ongoing_requests=64)
async def m10(query: list[float]) -> int:
    return await vote(10, query)


@clipper.function(min_replicas=1, max_replicas=1, max_ongoing_requests=64)
async def m11(query: list[float]) -> int:
    return await vote(11, query)


@clipper.function(min_replicas=1, max_replicas=1, max_ongoing_requests=64)
async def m12(query: list[float]) -> int:
    return await vote(12, query)


@clipper.function(min_replicas=1, max_replicas=1, max_ongoing_requests=64)
async def m13(query: list[float]) -> int:
    return await vote(13, query)


@clipper.function(min_replicas=1, max_replicas=1, max_ongoing_requests=64)
async def m14(query: list[float]) -> int:
    return await vote(14, query)


@clipper.function(min_replicas=1, max_replicas=1, max_ongoing_requests=64)
async def m15(query: list[float]) -> int:
    return await vote(15, query)


@clipper.function(min_replicas=1, max_replicas=1, max_ongoing_requests=64)
async def straggler(query: list[float]) -> int:
    return await vote(16, query, STRAGGLER_S)
