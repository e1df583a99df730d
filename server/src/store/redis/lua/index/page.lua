-- Lists a page of an index's members, after the member `after` unless that is empty. A negative limit means all members.
-- Answers the members; false if `after` is not a member.
local index = KEYS[1]
local after, limit, newest_first = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'

local start = 0
if after ~= '' then
  local rank = redis.call(newest_first and 'ZREVRANK' or 'ZRANK', index, after)
  if not rank then return false end
  start = rank + 1
end
local stop = limit < 0 and -1 or start + limit - 1
return redis.call(newest_first and 'ZREVRANGE' or 'ZRANGE', index, start, stop)
