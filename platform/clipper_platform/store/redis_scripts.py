"""What the Redis store asks of the server, as Lua scripts: the server runs one at a time, so each is atomic.

`guarded` makes a script refuse data of another id than the caller knows. Its two last arguments are not listed here.

A script that needs a project returns false (None in Python) before it has changed anything if there is none.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ADD_EVENT",
    "ADD_VERSION",
    "CHANGES",
    "CLAIM_ID",
    "CLAIM_SCHEMA",
    "DATA_LOST",
    "DELETE_PROJECT",
    "DELETE_VERSION",
    "LATER_EVENTS",
    "LIST_HASH",
    "LIVE_INSTANCES",
    "LOST_RACE",
    "NEWEST_EVENTS",
    "PUT_PROJECT",
    "READ_FIELD",
    "RENEW_LEASE",
    "SWAPPED",
    "SWAP_FIELD",
    "TAKE_NUMBER",
    "VALUES",
    "guarded",
]

# Answers of SWAP_FIELD, DELETE_PROJECT and DELETE_VERSION.
SWAPPED = 0
LOST_RACE = -1

_NEEDS_PROJECT = "if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return false end\n"

# Counts a change and publishes it. A user of the server may lack the right to publish: the platforms poll as well.
_CHANGE = """
local function changed(what, revision_key, changes_key)
  local revision = redis.call('INCR', revision_key)
  redis.call('ZADD', changes_key, revision, what)
  redis.pcall('PUBLISH', revision_key, revision)
end
"""

# KEYS: schema. ARGV: the layout's version. → the version of what was stored, raised to this one if it was older
CLAIM_SCHEMA = """
local found = redis.call('GET', KEYS[1])
if not found or string.match(found, '^%d+$') and tonumber(found) < tonumber(ARGV[1]) then
  redis.call('SET', KEYS[1], ARGV[1])
end
return redis.call('GET', KEYS[1])
"""

# KEYS: id. ARGV: the id for data that has none. → the id
CLAIM_ID = """
redis.call('SETNX', KEYS[1], ARGV[1])
return redis.call('GET', KEYS[1])
"""

DATA_LOST: Final = "DATALOST"


def guarded(script: str) -> str:
    """The script, after a check: its last key is that of the id, its last value the id that the caller knows."""
    return _GUARD + script


_GUARD = f"""
if redis.call('GET', table.remove(KEYS)) ~= table.remove(ARGV) then
  return redis.error_reply('{DATA_LOST} the data is not that of this platform any more')
end
"""

# KEYS: revision, changes, id, projects, routes, keys. ARGV: a revision. → the revision now; what changed after that
# one, and where the store went back, all that it knows; the id; the run of the server; how many of each hash
CHANGES = """
local now = tonumber(redis.call('GET', KEYS[1]) or 0)
local since = tonumber(ARGV[1])
local changed = {}
if since ~= now then
  changed = redis.call('ZRANGEBYSCORE', KEYS[2], since < now and '(' .. ARGV[1] or '-inf', '+inf')
end
local server = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
local holds = {redis.call('HLEN', KEYS[4]), redis.call('HLEN', KEYS[5]), redis.call('HLEN', KEYS[6])}
return {now, changed, redis.call('GET', KEYS[3]) or '', server, holds}
"""

_NOW_MS = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"

# KEYS: instances. ARGV: instance, milliseconds
RENEW_LEASE = (
    _NOW_MS
    + """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
return 1
"""
)

# KEYS: instances. → those whose lease has not ended
LIVE_INSTANCES = _NOW_MS + "return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now), '+inf')"

# KEYS: projects, revision, changes. ARGV: project, record, the change. → the record stored now
PUT_PROJECT = (
    _CHANGE
    + """
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 1 then changed(ARGV[3], KEYS[2], KEYS[3]) end
return redis.call('HGET', KEYS[1], ARGV[1])
"""
)

# KEYS: a hash. → its values
VALUES = "return redis.call('HVALS', KEYS[1])"

# KEYS: projects, a hash of the project. ARGV: project. → field, value, field, value, …
LIST_HASH = _NEEDS_PROJECT + "return redis.call('HGETALL', KEYS[2])"

# KEYS: a hash, then hashes of what must exist. ARGV: field, then a field of each of those hashes.
# → the value, false without one, or which of what must exist is missing, from 1
READ_FIELD = """
for i = 2, #KEYS do
  if redis.call('HEXISTS', KEYS[i], ARGV[i]) == 0 then return i - 1 end
end
return redis.call('HGET', KEYS[1], ARGV[1])
"""

# KEYS: a hash, revision, changes, then hashes of what must exist. ARGV: field, the value expected, the new one, the
# change ('' for none), then a field of each of those hashes. A value is '=' and its bytes; '' is no value.
# → SWAPPED, LOST_RACE, or which of what must exist is missing, from 1
SWAP_FIELD = (
    _CHANGE
    + """
for i = 4, #KEYS do
  if redis.call('HEXISTS', KEYS[i], ARGV[i + 1]) == 0 then return i - 3 end
end
local old = redis.call('HGET', KEYS[1], ARGV[1])
if (old and '=' .. old or '') ~= ARGV[2] then return -1 end
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], ARGV[1])
else redis.call('HSET', KEYS[1], ARGV[1], string.sub(ARGV[3], 2)) end
if ARGV[4] ~= '' then changed(ARGV[4], KEYS[2], KEYS[3]) end
return 0
"""
)

# KEYS: projects, versions, last-version, revision, changes. ARGV: project, record, the change, a number that is taken.
# → the number
ADD_VERSION = (
    _CHANGE
    + _NEEDS_PROJECT
    + """
local number = redis.call('HINCRBY', KEYS[3], ARGV[1], 1)
if number <= tonumber(ARGV[4]) then
  number = tonumber(ARGV[4]) + 1
  redis.call('HSET', KEYS[3], ARGV[1], number)
end
redis.call('HSET', KEYS[2], number, ARGV[2])
changed(ARGV[3], KEYS[4], KEYS[5])
return number
"""
)

# KEYS: last-version. ARGV: project, a number that is taken
TAKE_NUMBER = """
if tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0) < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
return 1
"""

# KEYS: projects, versions, routes, revision, changes. ARGV: project, number, the version and the route expected (as in
# SWAP_FIELD), the change. → SWAPPED, LOST_RACE
DELETE_VERSION = (
    _CHANGE
    + _NEEDS_PROJECT
    + """
local function value(key, field)
  local found = redis.call('HGET', key, field)
  return found and '=' .. found or ''
end
if value(KEYS[2], ARGV[2]) ~= ARGV[3] or value(KEYS[3], ARGV[1]) ~= ARGV[4] then return -1 end
redis.call('HDEL', KEYS[2], ARGV[2])
changed(ARGV[5], KEYS[4], KEYS[5])
return 0
"""
)

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

# KEYS: projects, routes, policies, versions, secrets, events, revision, changes. ARGV: project, its record, what the
# fields of its policies start with, the changes of the project and of policies. → SWAPPED, LOST_RACE
DELETE_PROJECT = (
    _CHANGE
    + _NEEDS_PROJECT
    + """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return -1 end
for _, field in ipairs(redis.call('HKEYS', KEYS[3])) do
  if string.sub(field, 1, #ARGV[3]) == ARGV[3] then redis.call('HDEL', KEYS[3], field) end
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[4], KEYS[5], KEYS[6])
changed(ARGV[4], KEYS[7], KEYS[8])
changed(ARGV[5], KEYS[7], KEYS[8])
return 0
"""
)
