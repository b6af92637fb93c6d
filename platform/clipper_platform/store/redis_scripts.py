"""What the Redis store asks of the server, as Lua scripts: each runs alone there, so each method is atomic.

A script answers false (None here) where what it needs first is missing, before it has changed anything; the caller
knows which refusal that means. Where two things may be missing it answers a word of its own.
"""

from __future__ import annotations

__all__ = [
    "ADD_EVENT",
    "ADD_VERSION",
    "CLAIM_SCHEMA",
    "DELETE_FIELD",
    "DELETE_PROJECT",
    "GET_VERSION",
    "LATER_EVENTS",
    "LIST_HASH",
    "LOST_RACE",
    "NEWEST_EVENTS",
    "NO_PROJECT",
    "NO_VERSION",
    "PUT_FIELD",
    "PUT_IF_ABSENT",
    "SET_ROUTE",
    "SWAP_FIELD",
]

# The words; records are JSON objects, so none of them can be mistaken for one.
NO_PROJECT = b"no-project"
NO_VERSION = b"no-version"
LOST_RACE = b"lost-race"

_NEEDS_PROJECT = "if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return false end\n"

# KEYS: schema. ARGV: the layout's version. → the version of what is stored.
CLAIM_SCHEMA = "redis.call('SET', KEYS[1], ARGV[1], 'NX') return redis.call('GET', KEYS[1])"

# KEYS: a hash. ARGV: field, record. → the record stored now.
PUT_IF_ABSENT = "redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) return redis.call('HGET', KEYS[1], ARGV[1])"

# KEYS: projects, a hash of the project. ARGV: project. → field, value, field, value, …
LIST_HASH = _NEEDS_PROJECT + "return redis.call('HGETALL', KEYS[2])"

# KEYS: projects, a hash. ARGV: project, field, value. → 1
PUT_FIELD = _NEEDS_PROJECT + "redis.call('HSET', KEYS[2], ARGV[2], ARGV[3]) return 1"

# KEYS: projects, a hash. ARGV: project, field. → how many were there, 0 or 1
DELETE_FIELD = _NEEDS_PROJECT + "return redis.call('HDEL', KEYS[2], ARGV[2])"

# KEYS: a hash. ARGV: field, the record expected, the new one. → 1, or false if it is another one by now
SWAP_FIELD = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return false end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""

# KEYS: projects, versions, last-version. ARGV: project, record. → the number
ADD_VERSION = (
    _NEEDS_PROJECT
    + """
local number = redis.call('HINCRBY', KEYS[3], ARGV[1], 1)
redis.call('HSET', KEYS[2], number, ARGV[2])
return number
"""
)

# KEYS: projects, versions. ARGV: project, number. → the record, false without it, or NO_PROJECT
GET_VERSION = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 'no-project' end
return redis.call('HGET', KEYS[2], ARGV[2])
"""

# KEYS: projects, versions, routes. ARGV: project, version, expected revision, record. → a word
SET_ROUTE = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 'no-project' end
if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 0 then return 'no-version' end
local old = redis.call('HGET', KEYS[3], ARGV[1])
local revision = old and cjson.decode(old)['revision'] or 0
if revision ~= tonumber(ARGV[3]) then return 'lost-race' end
redis.call('HSET', KEYS[3], ARGV[1], ARGV[4])
return 'set'
"""

# KEYS: projects, events, last-event. ARGV: project, record, how many to keep. → the seq
ADD_EVENT = (
    _NEEDS_PROJECT
    + """
local seq = redis.call('HINCRBY', KEYS[3], ARGV[1], 1)
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[3], seq .. '-0', 'event', ARGV[2])
return seq
"""
)

# KEYS: projects, events. ARGV: project, first seq, at most. → stream entries, oldest first
LATER_EVENTS = _NEEDS_PROJECT + "return redis.call('XRANGE', KEYS[2], ARGV[2], '+', 'COUNT', ARGV[3])"

# KEYS: projects, events. ARGV: project, at most. → stream entries, newest first
NEWEST_EVENTS = _NEEDS_PROJECT + "return redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', ARGV[2])"

# KEYS: projects, routes, policies, versions, secrets, events. ARGV: project, what its policies' fields start with. → 1
DELETE_PROJECT = (
    _NEEDS_PROJECT
    + """
for _, field in ipairs(redis.call('HKEYS', KEYS[3])) do
  if string.sub(field, 1, #ARGV[2]) == ARGV[2] then redis.call('HDEL', KEYS[3], field) end
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[4], KEYS[5], KEYS[6])
return 1
"""
)
