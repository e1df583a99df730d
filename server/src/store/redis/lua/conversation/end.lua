-- Ends a response's turn, appends its output if the turn had begun, and notifies the watchers. The conversation remembers the newest
-- `remembered` ended responses.
-- Answers the state; 1 also if the turn has ended before.
local response, channel, remembered = ARGV[3], ARGV[4], tonumber(ARGV[5])
local items_at = 6

if not known then return 0 end
local turn = redis.call('HGET', turns, response)
if not turn then return 1 end
redis.call('HDEL', turns, response)
redis.call('LREM', line, 1, response)
if string.sub(turn, 1, 1) == '1' then
  append(items_at)
  redis.call('HSET', about, 'latest', response)
  redis.call('ZADD', responses, redis.call('HINCRBY', about, 'next', 1), response)
  redis.call('ZREMRANGEBYRANK', responses, 0, -1 - remembered)
end
keep()
redis.call('SPUBLISH', channel, 'm')
return 1
