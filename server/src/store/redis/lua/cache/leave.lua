-- Removes a response from those that share a log. If no response shares it any more, its cache key is free again.
-- Answers how many responses still share the log.
local response = ARGV[4]

redis.call('SREM', sharing, response)
local left = redis.call('SCARD', sharing)
if left == 0 then
  local entry = find(cache_key)
  if entry and entry.log == log then remove(cache_key, entry) end
end
return left
