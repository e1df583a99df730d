-- Adds a response to those that share the log of a cache key. Removes an entry that no response can join any more.
-- Answers {1, whether the log is complete} if the response shares the log, {0, 0} if the key has no such log.
local response, max_sharing = ARGV[4], tonumber(ARGV[5])

local entry = find(cache_key)
if not entry or entry.log ~= log then return {0, 0} end
if entry.until_ms <= now or redis.call('EXISTS', sharing) == 0 or redis.call('SCARD', sharing) >= max_sharing then
  remove(cache_key, entry)
  return {0, 0}
end
redis.call('SADD', sharing, response)
redis.call('PEXPIRE', sharing, retention_ms)
put(cache_key, entry)
return {1, entry.complete and 1 or 0}
