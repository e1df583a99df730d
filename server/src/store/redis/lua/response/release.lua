-- Releases a running response, so that any replica may claim it.
-- Answers 1 if the response is released, 0 if the caller is fenced or the response has ended.
local meta_key = KEYS[1]
local fence = ARGV[1]

local current, ended = unpack(redis.call('HMGET', meta_key, 'fence', 'end'))
if current ~= fence or ended == '1' then return 0 end
redis.call('HSET', meta_key, 'owner', '', 'tries', 0)
redis.call('HINCRBY', meta_key, 'fence', 1)
return 1
