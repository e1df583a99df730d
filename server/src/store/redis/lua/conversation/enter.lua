-- Puts a response at the end of the line, unless it is in line already or more than `patience` turns are ahead of it.
-- Answers {state, turns ahead}.
local response, patience = ARGV[3], tonumber(ARGV[4])

if not known then return {0, 0} end
local place = redis.call('LPOS', line, response)
if place then return {1, place} end
local ahead = redis.call('LLEN', line)
if ahead > patience then return {2, ahead} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('RPUSH', line, response)
redis.call('HSET', turns, response, '0' .. string.format('%.0f', now))
keep()
return {1, ahead}
