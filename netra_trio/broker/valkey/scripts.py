"""The Lua scripts: what has to be read and changed in one step.

Their keys belong to one server; Redis Cluster is not supported, and the keys of leases are made in
the scripts. All times are the server's. A Redis script changes either everything or, after an error
in its first command, nothing: what can fail comes first. A server whose memory is full refuses the
first command of a script that may need more of it. PEXPIRE needs none, and permits what follows: so
leases are renewed, and sessions change their owner, when no log can grow any more.
"""

import hashlib

from attrs import field, frozen

from netra_trio.broker.valkey import thread_lua, usage_lua


@frozen
class Script:
    """A script and the digest that EVALSHA takes."""

    text: str
    sha: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        # The server's name for the script, not a protection.
        digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest)


_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# KEYS: the lease, the set of all nodes. ARGV: node, letter of the lease, its milliseconds,
# milliseconds after which a node without a lease leaves the set, number of this renewal, number of
# the newest renewal that was answered. Returns whether the lease was held, with that renewal: if
# not, the server has older data.
RENEW = Script(
    _NOW
    + """
redis.call('PEXPIRE', KEYS[1], ARGV[3])  -- first: it needs no memory, see above
local lease = redis.call('GET', KEYS[1])
local held = lease and tonumber(string.sub(lease, 2)) >= tonumber(ARGV[6])
redis.call('SET', KEYS[1], ARGV[2] .. ARGV[5], 'PX', ARGV[3])
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[4])
return held and 1 or 0
"""
)

# KEYS: the set of all nodes. ARGV: the prefix of leases. Returns nodes and their leases in turn.
NODES = Script("""
local found = {}
for _, node in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local lease = redis.call('GET', ARGV[1] .. node)
  if lease then
    found[#found + 1] = node
    found[#found + 1] = lease
  end
end
return found
""")

# The hash of a session: node (its owner, '' for none), epoch, last (number of its log), link (the
# connection that wrote the log), and the other fields of its record.

# KEYS: hash, log. ARGV: node, epoch, link, previous ('' replaces the log), last, data,
# milliseconds, then the fields of the hash and their values.
# An append that an earlier connection has sent may arrive after one of a later connection: it must
# not replace what is newer, hence `link`.
APPEND = Script("""
local known = redis.call('HMGET', KEYS[1], 'epoch', 'node', 'last', 'link')
local epoch, mine = tonumber(known[1]), tonumber(ARGV[2])
if epoch then
  if epoch > mine or (epoch == mine and known[2] ~= ARGV[1]) then
    return 'fenced'
  end
  if epoch == mine and tonumber(known[4]) > tonumber(ARGV[3]) then
    return 'stale'
  end
end
if ARGV[4] == '' then
  redis.call('DEL', KEYS[2])
  redis.call('XADD', KEYS[2], ARGV[5] .. '-1', 'p', '', 'd', ARGV[6])
  redis.call('HSET', KEYS[1], 'node', ARGV[1], 'epoch', ARGV[2], 'link', ARGV[3], 'last', ARGV[5],
    unpack(ARGV, 8))
else
  if epoch ~= mine then
    return 'stale'
  end
  if known[3] ~= ARGV[4] then
    local there = redis.call('XRANGE', KEYS[2], ARGV[5] .. '-1', ARGV[5] .. '-1')
    return there[1] and there[1][2][2] == ARGV[4] and 'stored' or 'stale'
  end
  if redis.call('EXISTS', KEYS[2]) == 0 then
    return 'stale'
  end
  redis.call('XADD', KEYS[2], ARGV[5] .. '-1', 'p', ARGV[4], 'd', ARGV[6])
  redis.call('HSET', KEYS[1], 'last', ARGV[5], 'link', ARGV[3])
end
redis.call('PEXPIRE', KEYS[1], ARGV[7])
redis.call('PEXPIRE', KEYS[2], ARGV[7])
return 'stored'
""")

# KEYS: hash. ARGV: the asking node, the prefix of leases.
# Returns the hash, whether its owner holds a lease, and whether the asking node does.
FIND = Script("""
local record = redis.call('HGETALL', KEYS[1])
local owner = redis.call('HGET', KEYS[1], 'node')
local owner_is_live = owner and owner ~= '' and redis.call('EXISTS', ARGV[2] .. owner) or 0
return {record, owner_is_live, redis.call('EXISTS', ARGV[2] .. ARGV[1])}
""")

# KEYS: hash. ARGV: node, owner and epoch as they were found.
TAKE = Script("""
local known = redis.call('HMGET', KEYS[1], 'node', 'epoch')
if known[1] ~= ARGV[2] or known[2] ~= ARGV[3] then
  return 0
end
redis.call('PEXPIRE', KEYS[1], redis.call('PTTL', KEYS[1]))
redis.call('HSET', KEYS[1], 'node', ARGV[1], 'link', 0)
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
return 1
""")

# KEYS: hash, log. ARGV: node, epoch, next owner, owner of the runs, waiting runs, milliseconds.
RELEASE = Script("""
local known = redis.call('HMGET', KEYS[1], 'node', 'epoch')
if known[1] ~= ARGV[1] or known[2] ~= ARGV[2] then
  return 0
end
redis.call('PEXPIRE', KEYS[2], ARGV[6])
if redis.call('PEXPIRE', KEYS[1], ARGV[6]) == 1 then
  redis.call('HSET', KEYS[1], 'node', ARGV[3], 'lease', ARGV[4], 'waiting', ARGV[5], 'link', 0)
  redis.call('HINCRBY', KEYS[1], 'epoch', 1)
end
return 1
""")

# KEYS: hash and log of each session. ARGV: node, then the milliseconds of each.
KEEP = Script("""
for at = 1, #KEYS, 2 do
  if redis.call('HGET', KEYS[at], 'node') == ARGV[1] then
    local ms = ARGV[(at + 1) / 2 + 1]
    redis.call('PEXPIRE', KEYS[at], ms)
    redis.call('PEXPIRE', KEYS[at + 1], ms)
  end
end
return 1
""")

# KEYS: hash and log of each session. ARGV: node, then the epoch of each.
DROP = Script("""
for at = 1, #KEYS, 2 do
  local known = redis.call('HMGET', KEYS[at], 'node', 'epoch')
  if known[1] == ARGV[1] and known[2] == ARGV[(at + 1) / 2 + 1] then
    redis.call('DEL', KEYS[at], KEYS[at + 1])
  end
end
return 1
""")

# KEYS: the inbox of a node. ARGV: the last id that the node has taken.
# Returns where it has to read on. A server that has failed over, or has restarted with an earlier
# clock, may give new messages smaller ids than that: then they start after its newest one.
RESUME = Script("""
if redis.call('EXISTS', KEYS[1]) == 0 then
  return '0-0'
end
local function parts(id)
  local ms, number = string.match(id, '(%d+)-(%d+)')
  return tonumber(ms), tonumber(number)
end
local newest
local info = redis.call('XINFO', 'STREAM', KEYS[1])
for at = 1, #info, 2 do
  if info[at] == 'last-generated-id' then
    newest = info[at + 1]
  end
end
local ms, number = parts(newest)
local taken_ms, taken_number = parts(ARGV[1])
if ms < taken_ms or (ms == taken_ms and number < taken_number) then
  return newest
end
return ARGV[1]
""")

# Rooms: a hash with epoch, offset, ms (of the newest event) and age (how long events are kept), and
# a stream whose ids are <ms>-<offset>, so that the server trims by age.

_ROOM = (
    _NOW
    + """
local function position(room, candidate, ttl)
  local epoch = redis.call('HGET', room, 'epoch')
  if not epoch then
    epoch = candidate
    redis.call('HSET', room, 'epoch', epoch, 'offset', 0, 'ms', 0, 'age', 0)
  end
  redis.call('PEXPIRE', room, ttl)
  return epoch
end
"""
)

# KEYS: room, its events, the idempotency key. ARGV: candidate for the epoch, data, how many events
# are kept, their milliseconds, those of the key (0 without one), those of the room, channel.
# A key of an earlier epoch is ignored: the room was forgotten since then.
PUBLISH = Script(
    _ROOM
    + """
if ARGV[5] ~= '0' then
  local known = redis.call('HMGET', KEYS[3], 'epoch', 'offset')
  if known[1] and known[1] == redis.call('HGET', KEYS[1], 'epoch') then
    return {known[1], tonumber(known[2]), 1}
  end
end
local epoch = position(KEYS[1], ARGV[1], ARGV[6])
local ms = math.max(now, tonumber(redis.call('HGET', KEYS[1], 'ms')))
local offset = redis.call('HINCRBY', KEYS[1], 'offset', 1)
local id = string.format('%.0f-%.0f', ms, offset)
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[3], id, 'd', ARGV[2])
redis.call('XTRIM', KEYS[2], 'MINID', string.format('%.0f', now - ARGV[4] + 1))
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('HSET', KEYS[1], 'ms', string.format('%.0f', ms), 'age', ARGV[4])
if ARGV[5] ~= '0' then
  redis.call('HSET', KEYS[3], 'epoch', epoch, 'offset', offset)
  redis.call('PEXPIRE', KEYS[3], ARGV[5])
end
redis.call('PUBLISH', ARGV[7], epoch .. ' ' .. string.format('%.0f', offset) .. ' ' .. ARGV[2])
return {epoch, offset, 0}
"""
)

# KEYS: room, its events. ARGV: candidate for the epoch, milliseconds of the room, epoch and offset
# after which events are asked for ('' asks for none).
# Returns epoch, offset, and the events, newest first.
HISTORY = Script(
    _ROOM
    + """
local epoch = position(KEYS[1], ARGV[1], ARGV[2])
local room = redis.call('HMGET', KEYS[1], 'offset', 'age')
local offset, after = tonumber(room[1]), tonumber(ARGV[4])
if ARGV[3] ~= epoch or after >= offset then
  return {epoch, offset, {}}
end
redis.call('XTRIM', KEYS[2], 'MINID', string.format('%.0f', now - room[2] + 1))
return {epoch, offset, redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', offset - after)}
"""
)

# KEYS: room, its events. ARGV: channel, milliseconds, whether it is a room of the nodes.
# A room whose offsets are not needed expires earlier after its last subscriber has left: a client
# may join and leave any number of rooms. A room that never had an event has no offsets.
ABANDON = Script("""
if (ARGV[3] == '1' or redis.call('HGET', KEYS[1], 'offset') == '0')
    and redis.call('PUBSUB', 'NUMSUB', ARGV[1])[2] == 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
""")

# KEYS: the inbox. ARGV: its milliseconds, channel.
# A probe goes the way of all messages and events, so that a listener that receives nothing is
# noticed. Where messages wait already, they are the probe, and none of them is lost for it.
PROBE = Script("""
if redis.call('XLEN', KEYS[1]) == 0 then
  redis.call('XADD', KEYS[1], '*', 'probe', '')
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
redis.call('PUBLISH', ARGV[2], '')
return 1
""")

# Limits: the connections of a user are a sorted set, by the time when they were opened, and a hash
# of their nodes and sessions ('<node> <session>'); the sessions of a user are a hash
# ('<node> <since when without a connection, or -> <1 if it has a run>').

# KEYS: connections, their nodes and sessions. ARGV: connection, node, session that it resumes,
# limit, whether the oldest ones are evicted, whether the gone nodes are known, milliseconds, then
# the gone nodes.
# Returns 'accepted' and the evicted connections, each with its node; 'rejected'; or 'undecided' and
# the nodes of the connections.
OPEN_CONNECTION = Script(
    _NOW
    + """
local places, removed, result = redis.call('ZCARD', KEYS[1]), {}, {'accepted'}
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  places = places - 1
end
local limit = tonumber(ARGV[4])
if places >= limit or ARGV[3] ~= '' then
  local gone, of, counted, others, another = {}, {}, {}, {}, false
  for at = 8, #ARGV do
    gone[ARGV[at]] = true
  end
  local pairs_of = redis.call('HGETALL', KEYS[2])
  for at = 1, #pairs_of, 2 do
    of[pairs_of[at]] = pairs_of[at + 1]
  end
  for _, connection in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    if connection ~= ARGV[1] then
      local node, session = string.match(of[connection] or ' ', '^(%S*) (.*)$')
      if gone[node] or (ARGV[3] ~= '' and session == ARGV[3]) then
        removed[#removed + 1] = connection
      else
        counted[#counted + 1] = {connection, node}
        if node ~= ARGV[2] then
          others[node], another = true, true
        end
      end
    end
  end
  if #counted >= limit then
    if ARGV[6] == '0' and another then
      result = {'undecided'}
      for node in pairs(others) do
        result[#result + 1] = node
      end
      return result
    end
    if ARGV[5] == '0' then
      return {'rejected'}
    end
    for at = 1, #counted - limit + 1 do
      removed[#removed + 1] = counted[at][1]
      result[#result + 1] = counted[at][1]
      result[#result + 1] = counted[at][2]
    end
  end
end
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
for _, connection in ipairs(removed) do
  redis.call('ZREM', KEYS[1], connection)
  redis.call('HDEL', KEYS[2], connection)
end
redis.call('PEXPIRE', KEYS[1], ARGV[7])
redis.call('PEXPIRE', KEYS[2], ARGV[7])
return result
"""
)

# KEYS: openings. ARGV: rate, burst. Returns 0, or the microseconds until there may be an opening.
# The value is when all places of the burst are free again: each opening takes one for 1 / rate.
TAKE_OPENING = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local free_at = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now) + 1000000 / ARGV[1]
local wait = free_at - now - ARGV[2] * 1000000 / ARGV[1]
if wait > 0 then
  return math.ceil(wait)
end
redis.call('SET', KEYS[1], string.format('%.0f', free_at), 'PX',
  math.ceil((free_at - now) / 1000))
return 0
""")

# KEYS: uploads. ARGV: limit, period in microseconds. Returns 0, or the microseconds until there may
# be an upload. The value is a list of the times of the uploads in the last period.
TAKE_UPLOAD = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local period = tonumber(ARGV[2])
local oldest = redis.call('LINDEX', KEYS[1], -ARGV[1])
if oldest and oldest + period > now then
  return math.ceil(oldest + period - now)
end
redis.call('RPUSH', KEYS[1], string.format('%.0f', now))
redis.call('LTRIM', KEYS[1], -ARGV[1], -1)
redis.call('PEXPIRE', KEYS[1], math.ceil(period / 1000))
return 0
""")

# KEYS: connections, their nodes and sessions; sessions. ARGV: node, milliseconds, limit of sessions
# ('' returns none), then lists, each behind the number of its values: open connections (id,
# session, milliseconds since it was opened), closed ones; kept sessions (id, milliseconds without a
# connection or '-', 1 if it has a run, claimed, kept or released), closed ones, gone ones.
# Returns the sessions in turn with their values, and the time, if there are more than the limit.
UPDATE_USER = Script(
    _NOW
    + """
local at = 4
local function each(width, use)
  local last = at + tonumber(ARGV[at])
  for first = at + 1, last, width do
    use(unpack(ARGV, first, first + width - 1))
  end
  at = last + 1
end
each(3, function(connection, session, age)
  redis.call('ZADD', KEYS[1], 'NX', now - age, connection)
  redis.call('HSET', KEYS[2], connection, ARGV[1] .. ' ' .. session)
end)
each(1, function(connection)
  redis.call('ZREM', KEYS[1], connection)
  redis.call('HDEL', KEYS[2], connection)
end)
local function node_of(session)
  local known = redis.call('HGET', KEYS[3], session)
  return known and string.match(known, '^%S+')
end
each(4, function(session, detached, is_busy, kind)
  local node = node_of(session)
  if node == ARGV[1] or kind == 'claimed' or (not node and kind == 'kept') then
    local since = detached == '-' and '-' or string.format('%.0f', now - detached)
    redis.call('HSET', KEYS[3], session, ARGV[1] .. ' ' .. since .. ' ' .. is_busy)
  end
end)
each(1, function(session)
  if node_of(session) == ARGV[1] then
    redis.call('HDEL', KEYS[3], session)
  end
end)
each(1, function(session)
  redis.call('HDEL', KEYS[3], session)
end)
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, ARGV[2])
end
if ARGV[3] == '' or redis.call('HLEN', KEYS[3]) <= tonumber(ARGV[3]) then
  return {}
end
return {redis.call('HGETALL', KEYS[3]), string.format('%.0f', now)}
"""
)

# A ticket is kept under its digest, behind the key of the tickets of its user, which is a sorted
# set of digests by the time when they expire, in microseconds: their order is that of the calls.

# KEYS: tickets of the user, the ticket. ARGV: digest, data, milliseconds, tickets of a user, the
# prefix of tickets.
ADD_TICKET = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZADD', KEYS[1], now + ARGV[3] * 1000, ARGV[1])
redis.call('SET', KEYS[2], string.format('%d ', #KEYS[1]) .. KEYS[1] .. ARGV[2], 'PX', ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local excess = redis.call('ZCARD', KEYS[1]) - ARGV[4]
if excess > 0 then
  local oldest = redis.call('ZPOPMIN', KEYS[1], excess)
  for at = 1, #oldest, 2 do
    redis.call('DEL', ARGV[5] .. oldest[at])
  end
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1
""")

# KEYS: the ticket. ARGV: digest. Returns its data, or nothing.
TAKE_TICKET = Script("""
local kept = redis.call('GETDEL', KEYS[1])
if not kept then
  return false
end
local size, start = string.match(kept, '^(%d+) ()')
redis.call('ZREM', string.sub(kept, start, start + size - 1), ARGV[1])
return string.sub(kept, start + size)
""")

# KEYS: the ticket. Returns its data, or nothing.
FIND_TICKET = Script("""
local kept = redis.call('GET', KEYS[1])
if not kept then
  return false
end
local size, start = string.match(kept, '^(%d+) ()')
return string.sub(kept, start + size)
""")

ADMIT = Script(thread_lua.ADMIT)
TAKE_SLOT = Script(thread_lua.TAKE_SLOT)
LEAVE = Script(thread_lua.LEAVE)
HOLD = Script(thread_lua.HOLD)
THREADS_EPOCH = Script(thread_lua.EPOCH)
READ_USAGE = Script(usage_lua.READ)
SEED_USAGE = Script(usage_lua.SEED)
COUNT_USAGE = Script(usage_lua.COUNT)

SCRIPTS = (
    RENEW,
    NODES,
    APPEND,
    FIND,
    TAKE,
    RELEASE,
    KEEP,
    DROP,
    RESUME,
    PUBLISH,
    HISTORY,
    ABANDON,
    PROBE,
    OPEN_CONNECTION,
    TAKE_OPENING,
    TAKE_UPLOAD,
    UPDATE_USER,
    ADD_TICKET,
    TAKE_TICKET,
    FIND_TICKET,
    ADMIT,
    TAKE_SLOT,
    LEAVE,
    HOLD,
    THREADS_EPOCH,
    READ_USAGE,
    SEED_USAGE,
    COUNT_USAGE,
)
