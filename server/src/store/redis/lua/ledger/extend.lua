-- Sets the end of an object's charge to `keep_ms` from now.
-- Answers 0.
local keep_ms = tonumber(ARGV[2])

local charged, responses, key = find(object)
if charged > 0 then put(object, charged, responses, key, keep_ms) end
return 0
