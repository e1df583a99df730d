-- Removes the entry of a cache key if it names this log.
-- Answers 1.

local entry = find(cache_key)
if entry and entry.log == log then remove(cache_key, entry) end
return 1
