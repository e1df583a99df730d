-- Reduces an object's charge by bytes that were not written after all.
-- Answers 0.
local fewer = tonumber(ARGV[2])

local charged, responses, key = find(object)
local till = tonumber(redis.call('ZSCORE', ends, object) or 0)
if charged > 0 then put(object, charged - fewer, responses, key, math.max(1, till - now)) end
return 0
