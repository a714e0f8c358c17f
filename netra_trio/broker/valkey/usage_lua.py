"""The Lua code of the counters of usage; `usage` has the fields of their hash."""

_MAXIMUM = "9007199254740991"  # 2^53 - 1, the largest amount

_COUNTER = f"""
local units = {{'tokens', 'cost'}}
local function number(field)
  return tonumber(redis.call('HGET', KEYS[1], field) or '0')
end
local function set(field, amount)
  redis.call('HSET', KEYS[1], field, string.format('%.0f', math.min(amount, {_MAXIMUM})))
end
local function text(field)
  return string.format('%.0f', number(field))
end
local function seen(node, reached)
  return {{
    redis.call('HGET', KEYS[1], 'id'), text('tokens'), text('cost'), text('tokens:' .. node),
    text('cost:' .. node), unpack(reached)
  }}
end
local function reach(reached, unit, warning)
  if warning ~= '' and number(unit) >= tonumber(warning)
      and redis.call('HSETNX', KEYS[1], 'warned:' .. unit .. ':' .. warning, '1') == 1 then
    reached[#reached + 1] = unit
  end
end
"""

# KEYS: the counter. ARGV: node. Returns its id, the total of tokens and of the cost, and those of
# the node; nothing if there is none.
READ = (
    _COUNTER
    + """
if not redis.call('HGET', KEYS[1], 'id') then
  return false
end
return seen(ARGV[1], {})
"""
)

# KEYS: the counter. ARGV: node, an id for a new counter, its milliseconds, then for each unit the
# stored amount and that of the warning. Returns what READ does, then the units whose warning
# was reached.
SEED = (
    _COUNTER
    + """
redis.call('HSETNX', KEYS[1], 'id', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local reached = {}
for at, unit in ipairs(units) do
  set(unit, math.max(number(unit), tonumber(ARGV[2 + 2 * at])))
  reach(reached, unit, ARGV[3 + 2 * at])
end
return seen(ARGV[1], reached)
"""
)

# KEYS: the counter. ARGV: node, the id of the counter, then for each unit what the node has used
# since the counter was made, and the amount of the warning. Returns what SEED does; nothing if
# there is no counter with this id.
COUNT = (
    _COUNTER
    + """
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[2] then
  return false
end
local reached = {}
for at, unit in ipairs(units) do
  local own, used = unit .. ':' .. ARGV[1], tonumber(ARGV[1 + 2 * at])
  local more = used - number(own)
  if more > 0 then
    set(own, used)
    set(unit, number(unit) + more)
  end
  reach(reached, unit, ARGV[2 + 2 * at])
end
return seen(ARGV[1], reached)
"""
)
