-- Reads the responses in line, and how long each has been in line.
-- Answers {state, the latest ended response or '', {response, ms in line, …}}.

if not known then return {0, '', {}} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local all = {}
for _, response in ipairs(redis.call('LRANGE', line, 0, -1)) do
  local entered = tonumber(string.sub(redis.call('HGET', turns, response) or '00', 2)) or 0
  all[#all + 1] = response
  all[#all + 1] = string.format('%.0f', math.max(0, now - entered))
end
return {1, redis.call('HGET', about, 'latest') or '', all}
