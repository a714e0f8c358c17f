"""The text of the scripts of threads and of the message rate.

A line is an array of runs, and a run an array: id, node, order, slot, 1 if it is a first run. The
window of the rate is an array of groups: first slot, latest slot, how many. Times are seconds.
"""

_COMMON = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local function text(number)
  return string.format('%.17g', number)
end
local function stored(key)
  local packed = redis.call('GET', key)
  return packed and cmsgpack.unpack(packed) or {}
end
"""

_LINES = (
    _COMMON
    + """
local function line_of(key, node, prefix)
  local line = stored(key)
  if #line == 0 or redis.call('EXISTS', prefix .. node) == 0 then
    return line
  end
  local kept = {}
  for _, run in ipairs(line) do
    if run[2] == node or redis.call('EXISTS', prefix .. run[2]) == 1 then
      kept[#kept + 1] = run
    end
  end
  return kept
end
local function settle(key, line, ms)
  table.sort(line, function(a, b)
    if a[5] ~= b[5] then
      return a[5] > b[5]
    end
    return a[3] < b[3] or (a[3] == b[3] and a[1] < b[1])
  end)
  local first = line[1]
  if not first then
    redis.call('DEL', key)
    return false
  end
  local is_new = first[5] == 0
  first[5] = 1
  redis.call('SET', key, cmsgpack.pack(line), 'PX', ms)
  return is_new
end
local function told(run)
  return {run[1], run[2], text(run[3])}
end
"""
)

_WINDOW = """
local function window_of(key)
  local groups, kept, has_expired = stored(key), {}, true
  for _, group in ipairs(groups) do
    has_expired = has_expired and group[2] + 60 <= now
    if not has_expired then
      kept[#kept + 1] = group
    end
  end
  return kept
end
local function keep_window(key, groups)
  local latest = now
  for _, group in ipairs(groups) do
    latest = math.max(latest, group[2])
  end
  if #groups == 0 then
    redis.call('DEL', key)
  else
    redis.call('SET', key, cmsgpack.pack(groups), 'PX', math.ceil((latest + 60 - now) * 1000) + 1)
  end
end
local function used_of(groups)
  local used = 0
  for _, group in ipairs(groups) do
    used = used + group[3]
  end
  return used
end
local function when_free(groups, slots)
  for _, group in ipairs(groups) do
    slots = slots - group[3]
    if slots <= 0 then
      return group[2] + 60
    end
  end
end
local function use_slot(key, groups, slot, group_seconds)
  local place = #groups
  while place > 0 and groups[place][1] > slot do
    place = place - 1
  end
  local before = groups[place]
  if before and slot - before[1] < group_seconds then
    before[2] = math.max(before[2], slot)
    before[3] = before[3] + 1
  else
    table.insert(groups, place + 1, {slot, slot, 1})
  end
  keep_window(key, groups)
end
"""

# KEYS: window, line, epoch. ARGV: candidate for the epoch, run, node, on_busy, rate, burst, seconds
# of a group, milliseconds of a line, prefix of leases, smallest distance of two orders.
ADMIT = (
    _LINES
    + _WINDOW
    + """
redis.call('SET', KEYS[3], ARGV[1], 'NX')
local epoch = redis.call('GET', KEYS[3])
local rate, burst = tonumber(ARGV[5]), tonumber(ARGV[6])
local group_seconds, step = tonumber(ARGV[7]), tonumber(ARGV[10])

local groups = window_of(KEYS[1])
local used, later = used_of(groups), 0
for at = #groups, 1, -1 do
  if groups[at][2] <= now then
    break
  end
  later = later + groups[at][3]
end
local slot = now
if used >= rate then
  if later < burst then
    slot = when_free(groups, used - rate + 1)
  elseif burst == 0 then
    return {'too_fast', epoch, text(when_free(groups, used - rate + 1) - now)}
  else
    for _, group in ipairs(groups) do
      if group[2] > now then
        return {'too_fast', epoch, text(group[2] - now)}
      end
    end
  end
end

local line = line_of(KEYS[2], ARGV[3], ARGV[9])
if ARGV[4] == 'reject' and #line > 0 then
  return {'busy', epoch, '0'}
end
local order = ARGV[4] == 'interrupt' and -now or now
for _, run in ipairs(line) do
  if ARGV[4] == 'interrupt' then
    order = math.min(order, run[3] - step)
  else
    order = math.max(order, run[3] + step)
  end
end

use_slot(KEYS[1], groups, slot, group_seconds)

local mine = {ARGV[2], ARGV[3], order, slot, 0}
line[#line + 1] = mine
settle(KEYS[2], line, ARGV[8])
local ahead = 0
for at, run in ipairs(line) do
  if run == mine then
    ahead = at - 1
  end
end
local position = line[1][4] <= now and math.max(ahead, 1) or ahead + 1
return {mine[5] == 1 and 'first' or 'behind', epoch, text(slot - now), text(slot), text(order),
  position}
"""
)

# KEYS: window. ARGV: rate, seconds of a group.
# Returns 0 for a slot, or the seconds until there is one.
TAKE_SLOT = (
    _COMMON
    + _WINDOW
    + """
local rate, groups = tonumber(ARGV[1]), window_of(KEYS[1])
local used = used_of(groups)
if used >= rate then
  return text(when_free(groups, used - rate + 1) - now)
end
use_slot(KEYS[1], groups, now, tonumber(ARGV[2]))
return '0'
"""
)

# KEYS: line, window. ARGV: run, node, its slot or '', milliseconds of a line, prefix of leases.
# Returns the run that has become the first, if another one has.
LEAVE = (
    _LINES
    + _WINDOW
    + """
redis.call('PEXPIRE', KEYS[1], ARGV[4])
if ARGV[3] ~= '' then
  local slot, groups = tonumber(ARGV[3]), window_of(KEYS[2])
  for at = #groups, 1, -1 do
    local group = groups[at]
    if group[1] <= slot and slot <= group[2] then
      group[3] = group[3] - 1
      if group[3] == 0 then
        table.remove(groups, at)
      end
      keep_window(KEYS[2], groups)
      break
    end
  end
end
local line = line_of(KEYS[1], ARGV[2], ARGV[5])
for at, run in ipairs(line) do
  if run[1] == ARGV[1] and run[2] == ARGV[2] then
    table.remove(line, at)
    break
  end
end
local is_new = settle(KEYS[1], line, ARGV[4])
return is_new and told(line[1]) or {}
"""
)

# KEYS: line. ARGV: run, node, order, 'waiting', 'active' or 'back' (it steps back), milliseconds of
# a line, prefix of leases. Returns the first run.
HOLD = (
    _LINES
    + """
redis.call('PEXPIRE', KEYS[1], ARGV[5])
local line, mine = line_of(KEYS[1], ARGV[2], ARGV[6]), nil
for _, run in ipairs(line) do
  if run[1] == ARGV[1] then
    mine = run
  end
end
if not mine then
  mine = {ARGV[1], ARGV[2], tonumber(ARGV[3]), 0, 0}
  line[#line + 1] = mine
elseif ARGV[4] == 'back' then
  if mine[2] == ARGV[2] then
    mine[5] = 0
  end
else
  mine[2] = ARGV[2]
end
if ARGV[4] == 'active' then
  mine[5] = 1
end
settle(KEYS[1], line, ARGV[5])
return told(ARGV[4] ~= 'back' and mine[5] == 1 and mine or line[1])
"""
)

# KEYS: epoch. ARGV: candidate for the epoch.
EPOCH = (
    _COMMON
    + """
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return {redis.call('GET', KEYS[1]), text(now)}
"""
)
