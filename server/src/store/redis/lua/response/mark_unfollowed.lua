-- Records since when nobody follows a running response, or that it is followed again.
-- Answers 1 if this is recorded, 0 if the response has ended or is gone.
local meta_key = KEYS[1]
local unfollowed = ARGV[1] == '1'

if redis.call('HGET', meta_key, 'end') ~= '0' then return 0 end
if unfollowed then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('HSETNX', meta_key, 'nobody_since', string.format('%.0f', now))
else
  redis.call('HDEL', meta_key, 'nobody_since')
end
return 1
