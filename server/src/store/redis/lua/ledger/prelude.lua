-- The beginning of each script of a tenant's ledger: functions that find, write and remove charges. Removes expired charges.
-- `held` has `<object>` → `bytes responses key`, and the sums `#bytes`, `#responses` and `#key:<key>`. No object's id has a `#`.
local ends, held = KEYS[1], KEYS[2]
local object = ARGV[1]

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function total(name) return tonumber(redis.call('HGET', held, name) or 0) end

local function find(id)
  local bytes, responses, key = string.match(redis.call('HGET', held, id) or '0 0 ', '^(%d+) (%d+) (.*)$')
  return tonumber(bytes), tonumber(responses), key
end

local function count(name, by)
  if by ~= 0 and redis.call('HINCRBY', held, name, string.format('%.0f', by)) <= 0 then redis.call('HDEL', held, name) end
end

local function strike(id)
  local bytes, responses, key = find(id)
  redis.call('ZREM', ends, id)
  redis.call('HDEL', held, id)
  count('#bytes', -bytes)
  count('#responses', -responses)
  if key ~= '' then count('#key:' .. key, -bytes) end
end

-- Sets the charge of an object to `bytes`, until `keep_ms` from now.
local function put(id, bytes, responses, key, keep_ms)
  strike(id)
  if bytes <= 0 then return end
  redis.call('HSET', held, id, string.format('%.0f %.0f %s', bytes, responses, key))
  redis.call('ZADD', ends, string.format('%.0f', now + keep_ms), id)
  count('#bytes', bytes)
  count('#responses', responses)
  if key ~= '' then count('#key:' .. key, bytes) end
  local last = redis.call('ZREVRANGE', ends, 0, 0, 'WITHSCORES')[2]
  redis.call('PEXPIREAT', ends, last)
  redis.call('PEXPIREAT', held, last)
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, 100)) do strike(id) end
