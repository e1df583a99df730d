-- Counts one more try of a response whose log has not grown since the last try.
-- Answers the number of tries since the log last grew, this one included; 0 if the caller is fenced.
local meta_key = KEYS[1]
local fence = ARGV[1]

local current, len, tries, tried_at = unpack(redis.call('HMGET', meta_key, 'fence', 'len', 'tries', 'tried_at'))
if current ~= fence then return 0 end
tries = (len == tried_at and tonumber(tries) or 0) + 1
redis.call('HSET', meta_key, 'tries', tries, 'tried_at', len)
return tries
