-- Counts stored blocks, given as `name, bytes, …`, then evicts expired blocks, and the least recently used ones until the tenant has at
-- most `max_bytes`.
-- Answers the bytes of all blocks of the tenant.
local used, sizes = KEYS[1], KEYS[2]
local max_bytes, retention_ms, prefix = tonumber(ARGV[1]), ARGV[2], ARGV[3]

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local total = tonumber(redis.call('HGET', sizes, '') or 0)

local function remove(name)
  redis.call('UNLINK', prefix .. name)
  total = total - tonumber(redis.call('HGET', sizes, name) or 0)
  redis.call('HDEL', sizes, name)
  redis.call('ZREM', used, name)
end

for at = 4, #ARGV, 2 do
  local name, bytes = ARGV[at], tonumber(ARGV[at + 1])
  total = total + bytes - tonumber(redis.call('HGET', sizes, name) or 0)
  redis.call('HSET', sizes, name, bytes)
  redis.call('ZADD', used, now - at, name)
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', used, '-inf', now - tonumber(retention_ms) * 1000, 'LIMIT', 0, 100)) do
  remove(name)
end
while total > max_bytes do
  local oldest = redis.call('ZRANGE', used, 0, 0)[1]
  if not oldest then break end
  remove(oldest)
end
redis.call('HSET', sizes, '', total)
redis.call('PEXPIRE', used, retention_ms)
redis.call('PEXPIRE', sizes, retention_ms)
return total
