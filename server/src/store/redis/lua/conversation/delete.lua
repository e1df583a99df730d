-- Deletes a conversation and notifies its watchers.
-- Answers {state, its ended responses, then those in line}.
local channel = ARGV[3]

if not known then return {0, {}} end
local all = redis.call('ZRANGE', responses, 0, -1)
for _, response in ipairs(redis.call('LRANGE', line, 0, -1)) do all[#all + 1] = response end
redis.call('DEL', about, items, order, line, turns, responses)
redis.call('SPUBLISH', channel, '')
return {1, all}
