-- Records that a log is complete, then evicts the least recently used complete logs until those of the tenant have at most
-- `max_bytes`.
-- Answers 1.
local bytes, max_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])

local entry = find(cache_key)
if entry and entry.log == log and not entry.complete then
  entry.complete, entry.bytes, entry.until_ms = true, bytes, now + entry.ttl_ms
  redis.call('HINCRBY', size, 'bytes', bytes)
  put(cache_key, entry)
end
local total, at = tonumber(redis.call('HGET', size, 'bytes') or 0), 0
while total > max_bytes do
  local oldest = redis.call('ZRANGE', used, at, at)[1]
  if not oldest then break end
  local evicted = find(oldest)
  if not evicted then
    redis.call('ZREM', used, oldest)
  elseif evicted.complete then
    remove(oldest, evicted)
    total = total - evicted.bytes
    redis.call('HINCRBY', size, 'evicted', 1)
  else
    at = at + 1
  end
end
return 1
