-- Stores a new version of a prompt. The same call, repeated after a lost answer, makes no further version.
-- Answers the version; 0 if a bound would be exceeded.
local index, prompt, bytes_key = KEYS[1], KEYS[2], KEYS[3]
local id, json, call = ARGV[1], ARGV[2], ARGV[3]
local max_prompts, max_versions, max_bytes = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

local time = redis.call('TIME')
local latest, last_call = unpack(redis.call('HMGET', prompt, 'latest', 'call'))
if last_call == call then return tonumber(latest) end
local version = tonumber(latest or 0) + 1
local bytes = tonumber(redis.call('GET', bytes_key) or 0) + #json
if bytes > max_bytes or version > max_versions then return 0 end
if version == 1 and redis.call('ZCARD', index) >= max_prompts then return 0 end
redis.call('SET', bytes_key, bytes)
redis.call('ZADD', index, 'NX', time[1] * 1000000 + time[2], id)
redis.call('HSET', prompt, 'latest', version, 'call', call, version, json)
return version
