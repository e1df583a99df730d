-- Sets an object's charge to `bytes`, whatever the bounds. 0 bytes remove the charge. An object without a charge gets none.
-- Answers 0.
local bytes, keep_ms = tonumber(ARGV[2]), tonumber(ARGV[3])

local charged, responses, key = find(object)
if charged > 0 then put(object, bytes, responses, key, keep_ms) end
return 0
