-- Makes a new log the log of a cache key, unless the key has another log.
-- Answers the other log; '' if the key has this log now.
local response, ttl_ms, running_ms = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])

local entry = find(cache_key)
if entry and entry.log ~= log then
  if entry.until_ms > now then return entry.log end
  remove(cache_key, entry)
end
redis.call('SADD', sharing, response)
redis.call('PEXPIRE', sharing, retention_ms)
put(cache_key, {log = log, complete = false, bytes = 0, until_ms = now + running_ms, ttl_ms = ttl_ms})
return ''
