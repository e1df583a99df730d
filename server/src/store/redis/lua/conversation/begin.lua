-- Begins the turn of the response that is first in line, appends its input and notifies the watchers.
-- Answers the state; 1 also if the turn has begun or ended before.
local response, channel, max_items, max_bytes = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local items_at = 7

if not known then return 0 end
if redis.call('ZSCORE', responses, response) then return 1 end
if redis.call('LINDEX', line, 0) ~= response then return 2 end
local turn = redis.call('HGET', turns, response)
local begun, entered = string.sub(turn, 1, 1), string.sub(turn, 2)
if begun == '1' then return 1 end
if not append(items_at, max_items, max_bytes) then return 3 end
redis.call('HSET', turns, response, '1' .. entered)
keep()
redis.call('SPUBLISH', channel, 'b' .. response)
return 1
