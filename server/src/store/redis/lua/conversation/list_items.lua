-- Lists a page of a conversation's items, after the item `after` unless that is empty. A negative limit means all items.
-- Answers {state, {id, body, …}}.
local after, limit, newest_first = ARGV[3], tonumber(ARGV[4]), ARGV[5] == '1'

if not known then return {0, {}} end
local start = 0
if after ~= '' then
  local rank = redis.call(newest_first and 'ZREVRANK' or 'ZRANK', order, after)
  if not rank then return {4, {}} end
  start = rank + 1
end
local stop = limit < 0 and -1 or start + limit - 1
local found = {}
for _, id in ipairs(redis.call(newest_first and 'ZREVRANGE' or 'ZRANGE', order, start, stop)) do
  found[#found + 1] = id
  found[#found + 1] = redis.call('HGET', items, id)
end
return {1, found}
