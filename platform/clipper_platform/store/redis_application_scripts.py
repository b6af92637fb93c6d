"""What the Redis store asks of the server about what applications learn, as Lua scripts. See `redis_scripts`.

KEYS[1] is the hash of applications and ARGV[1] the application's name; a script that needs it returns false without it.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ADD_AWAITED",
    "ADD_COUNTS",
    "AWAITED",
    "DELETE_APPLICATION",
    "JOINED",
    "LEARN",
    "NEWEST_PAIRS",
    "PAIRS",
    "PRUNE_AWAITED",
    "STATES",
]

_NEEDS_APPLICATION: Final = "if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return false end\n"

_ADD_COUNTS = """
local function add_counts(key, counts)
  for i = 1, #counts, 2 do redis.call('HINCRBYFLOAT', key, counts[i], counts[i + 1]) end
end
"""

# KEYS: applications, revision, changes, then those of the application. ARGV: name, its record, the change.
# → 0, -1 where the record is another one
DELETE_APPLICATION = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return -1 end
redis.call('HDEL', KEYS[1], ARGV[1])
for i = 4, #KEYS do redis.call('DEL', KEYS[i]) end
local revision = redis.call('INCR', KEYS[2])
redis.call('ZADD', KEYS[3], revision, ARGV[3])
redis.pcall('PUBLISH', KEYS[2], revision)
return 0
"""

# KEYS: states, state seqs. ARGV: a seq. → context, record, seq, context, …
STATES = """
local found = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[1], '+inf', 'WITHSCORES')
local answer = {}
for i = 1, #found, 2 do
  answer[#answer + 1] = found[i]
  answer[#answer + 1] = redis.call('HGET', KEYS[1], found[i])
  answer[#answer + 1] = found[i + 1]
end
return answer
"""

# KEYS: applications, states, state seqs, pairs, joined, counts, last seq.
# ARGV: name, how many pairs to keep, and as JSON the query ids, the pairs' records, the contexts, the revision of each
# (a string, '' for none), the state of each ('' to delete it) and the counts: name, value, name, …
# → the ids joined before, the contexts of another revision
LEARN = (
    _NEEDS_APPLICATION
    + _ADD_COUNTS
    + """
local ids, pairs_, contexts = cjson.decode(ARGV[3]), cjson.decode(ARGV[4]), cjson.decode(ARGV[5])
local revisions, states, counts = cjson.decode(ARGV[6]), cjson.decode(ARGV[7]), cjson.decode(ARGV[8])
local duplicates, conflicts = {}, {}
for _, id in ipairs(ids) do
  if redis.call('ZSCORE', KEYS[5], id) then duplicates[#duplicates + 1] = id end
end
for i, context in ipairs(contexts) do
  local stored = redis.call('HGET', KEYS[2], context)
  local revision = stored and string.match(stored, '^%d+') or ''
  if revision ~= revisions[i] then conflicts[#conflicts + 1] = context end
end
if #duplicates > 0 or #conflicts > 0 then return {duplicates, conflicts} end
for i, id in ipairs(ids) do
  local seq = redis.call('HINCRBY', KEYS[7], 'pair', 1)
  redis.call('XADD', KEYS[4], 'MAXLEN', ARGV[2], seq .. '-0', 'id', id, 'pair', pairs_[i])
  redis.call('ZADD', KEYS[5], seq, id)
end
redis.call('ZREMRANGEBYRANK', KEYS[5], 0, -1 - ARGV[2])
for i, context in ipairs(contexts) do
  if states[i] == '' then
    redis.call('HDEL', KEYS[2], context)
    redis.call('ZREM', KEYS[3], context)
  else
    redis.call('HSET', KEYS[2], context, states[i])
    redis.call('ZADD', KEYS[3], redis.call('HINCRBY', KEYS[7], 'state', 1), context)
  end
end
add_counts(KEYS[6], counts)
return {duplicates, conflicts}
"""
)

# KEYS: applications, awaited, last seq. ARGV: name, the newest time, count, data
ADD_AWAITED = (
    _NEEDS_APPLICATION
    + """
local seq = redis.call('HINCRBY', KEYS[3], 'awaited', 1)
redis.call('XADD', KEYS[2], seq .. '-0', 'at', ARGV[2], 'count', ARGV[3], 'data', ARGV[4])
return seq
"""
)

# KEYS: awaited. ARGV: first seq. → stream entries, oldest first
AWAITED = "return redis.call('XRANGE', KEYS[1], ARGV[1], '+')"

# KEYS: applications, awaited. ARGV: name, the last seq to forget
PRUNE_AWAITED = (
    _NEEDS_APPLICATION
    + """
for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', ARGV[2])) do redis.call('XDEL', KEYS[2], entry[1]) end
return 1
"""
)

# KEYS: joined. ARGV: id
JOINED = "return redis.call('ZSCORE', KEYS[1], ARGV[1])"

# KEYS: pairs. ARGV: first seq, at most. → stream entries, oldest first
PAIRS = "return redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])"

# KEYS: pairs. ARGV: at most. → stream entries, newest first
NEWEST_PAIRS = "return redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', ARGV[1])"

# KEYS: applications, counts. ARGV: name, then as JSON name, value, name, …
ADD_COUNTS = (
    _NEEDS_APPLICATION
    + _ADD_COUNTS
    + """
add_counts(KEYS[2], cjson.decode(ARGV[2]))
return 1
"""
)
