-- Records a heartbeat of a replica, or that it leaves. The last heartbeat of a leaving replica is set to time 0, so that all others see
-- it as dead at once.
-- Answers {{replica, ms since its last heartbeat, its report}, …} of the whole fleet.
local replicas_key, reports_key = KEYS[1], KEYS[2]
local me, lives, report, keep_ms = ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4]

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', replicas_key, lives and now or 0, me)
redis.call('HSET', reports_key, me, report)
redis.call('PEXPIRE', reports_key, keep_ms)
local all = redis.call('ZRANGE', replicas_key, 0, -1, 'WITHSCORES')
local members = {}
for at = 1, #all, 2 do
  local replica, heard = all[at], tonumber(all[at + 1])
  local told = replica ~= me and redis.call('HGET', reports_key, replica)
  members[#members + 1] = {replica, math.max(0, now - heard), told or ''}
end
return members
