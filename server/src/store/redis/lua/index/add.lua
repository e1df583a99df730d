-- Adds a member to an index. Members are ordered by the time when they were added; an existing member keeps its place.
-- Answers up to `checked` random members, for the caller to check.
local index = KEYS[1]
local member, ttl_ms, checked = ARGV[1], ARGV[2], ARGV[3]

local time = redis.call('TIME')
redis.call('ZADD', index, 'NX', time[1] * 1000000 + time[2], member)
redis.call('PEXPIRE', index, ttl_ms)
return redis.call('ZRANDMEMBER', index, checked)
