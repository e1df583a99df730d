-- Makes `me` the owner of a response that `from` or nobody owns, and fences the old owner.
-- Answers {fence, cancel, tries, ms for which nobody has followed it or -1, 1 if `me` owns it now}. Fence 0: nothing was claimed,
-- because the response has ended, is gone, or is owned by another replica or already by `me`.
local meta_key = KEYS[1]
local me, from, running_ms = ARGV[1], ARGV[2], ARGV[3]

local owner, ended, cancel, len, tries, tried_at, nobody_since = unpack(redis.call('HMGET', meta_key, 'owner', 'end',
  'cancel', 'len', 'tries', 'tried_at', 'nobody_since'))
if not owner or ended == '1' or (owner ~= from and owner ~= '') then
  return {0, 0, 0, -1, owner == me and ended ~= '1' and 1 or 0}
end
tries = len == tried_at and tonumber(tries) or 0
redis.call('HSET', meta_key, 'owner', me)
redis.call('PEXPIRE', meta_key, running_ms)
local unfollowed_ms = -1
if nobody_since then
  local time = redis.call('TIME')
  unfollowed_ms = math.max(0, time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(nobody_since))
end
return {redis.call('HINCRBY', meta_key, 'fence', 1), tonumber(cancel), tries, unfollowed_ms, 1}
