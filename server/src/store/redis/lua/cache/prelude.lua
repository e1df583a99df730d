-- The beginning of each script of a tenant's prompt cache: functions that read, write and remove entries of the index.
-- An entry is `log complete bytes until ttl`. The set `sharing` has the responses that share the log.
local index, used, size, sharing = unpack(KEYS)
local cache_key, retention_ms, log = ARGV[1], ARGV[2], ARGV[3]

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function find(key)
  local entry = redis.call('HGET', index, key)
  if not entry then return nil end
  local log, complete, bytes, until_ms, ttl_ms = string.match(entry, '(%S+) (%S+) (%S+) (%S+) (%S+)')
  return {log = log, complete = complete == '1', bytes = tonumber(bytes), until_ms = tonumber(until_ms),
    ttl_ms = tonumber(ttl_ms)}
end

local function put(key, entry)
  redis.call('HSET', index, key, string.format('%s %s %.0f %.0f %.0f', entry.log, entry.complete and '1' or '0',
    entry.bytes, entry.until_ms, entry.ttl_ms))
  redis.call('ZADD', used, now * 1000 + math.floor(time[2] % 1000), key)
  for _, part in ipairs({index, used, size}) do redis.call('PEXPIRE', part, retention_ms) end
end

local function remove(key, entry)
  redis.call('HDEL', index, key)
  redis.call('ZREM', used, key)
  if entry.bytes > 0 then redis.call('HINCRBY', size, 'bytes', -entry.bytes) end
end
