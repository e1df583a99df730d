-- The beginning of each script of a conversation: its keys, `known` if the tenant has it, and functions that renew it and append items.
-- States in answers: 0 not found, 1 done, 2 busy, 3 over the bounds, 4 no such item.
local about, items, order, line, turns, responses = unpack(KEYS)
local tenant, ttl_ms = ARGV[1], ARGV[2]

local known = redis.call('HGET', about, 'tenant') == tenant

-- Starts the time to live of the whole conversation anew.
local function keep()
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ttl_ms) end
end

-- Appends the items in the arguments `count, id, body, …` from `at` on. A repeated call does not append them again.
-- Returns false and changes nothing if a bound would be exceeded.
local function append(at, max_items, max_bytes)
  local count, bytes = tonumber(ARGV[at]), 0
  if count == 0 or redis.call('HEXISTS', items, ARGV[at + 1]) == 1 then return true end
  for n = 1, count do bytes = bytes + #ARGV[at + 2 * n] end
  local all = tonumber(redis.call('HGET', about, 'bytes') or 0) + bytes
  if max_items and (redis.call('HLEN', items) + count > max_items or all > max_bytes) then return false end
  redis.call('HSET', about, 'bytes', all)
  for n = 1, count do
    local id, body = ARGV[at + 2 * n - 1], ARGV[at + 2 * n]
    redis.call('HSET', items, id, body)
    redis.call('ZADD', order, redis.call('HINCRBY', about, 'next', 1), id)
  end
  return true
end
