-- Removes an item from a conversation.
-- Answers the state.
local item = ARGV[3]

if not known then return 0 end
local body = redis.call('HGET', items, item)
if not body then return 4 end
redis.call('HDEL', items, item)
redis.call('ZREM', order, item)
redis.call('HINCRBY', about, 'bytes', -#body)
keep()
return 1
